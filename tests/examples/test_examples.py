"""The example scripts on a tiny folder in MiniOneRec's layout, with a tiny backbone."""

import csv
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from trl import ModelConfig, TrlParser

from tsrec_hf.evaluation import NextItemRecommender, PopularityRecommender, RecommendationEvaluator
from tsrec_hf.items import load_minionerec
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.trainers import TSRecSFTConfig


EXAMPLES = Path(__file__).parents[2] / "examples"
COLUMNS = ["user_id", "history_item_title", "item_title", "history_item_id", "item_id", "history_item_sid", "item_sid"]
SETTINGS = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_num_beams": 7,
    "save_strategy": "steps",
    "save_steps": 2,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def module_conftest(request):
    """Builders of the tiny catalogue, from the `conftest.py` at the root."""
    return next(
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if hasattr(plugin, "make_dataset") and hasattr(plugin, "save_backbone")
    )


@pytest.fixture(scope="module")
def data_dir(module_conftest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "Tiny_Tools"
    folder.mkdir()
    dataset = module_conftest.make_dataset()
    index, title_of = dataset.sid_index, dict(zip(dataset.items["item_id"], dataset.items["title"]))
    index.to_json(folder / "index.json")
    module_conftest.make_semantics().to_json(folder / "description_keywords.json")
    fields = ("title", "description")
    items = {item["item_id"]: {field: item[field] for field in fields} for item in dataset.items}
    (folder / "item.json").write_text(json.dumps(items))
    for split in ("train", "valid", "test"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in getattr(dataset, split):
                history, target = row["history"], row["target"]
                titles, sids = [title_of[item] for item in history], [index.sid_of(item) for item in history]
                writer.writerow(
                    [row["user_id"], titles, title_of[target], history, target, sids, index.sid_of(target)]
                )
    assert load_minionerec(folder).train.to_dict() == dataset.train.to_dict()
    return folder


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    return {"HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("cache"))}


def options(**settings):
    line = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        line += [f"--{name}", *(json.dumps(one) if isinstance(one, dict) else str(one) for one in values)]
    return line


def run_here(script, monkeypatch, **settings):
    """Runs an example in this process: imports cost most of what a script takes here."""
    monkeypatch.setattr(sys, "argv", [script, *options(**settings)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def run(script, caches, processes=1, check=True, **settings):
    """Runs an example as users do."""
    launcher = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / script), *options(**settings)],
        env={**os.environ, **caches, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


def weights(folder):
    return load_file(Path(folder, "model.safetensors"))


def same_weights(one, two):
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


@pytest.fixture(scope="module")
def trained(data_dir, backbone_dir, caches, tmp_path_factory):
    """`sft.py` with all tasks and the grounding stage, run once for the slow tests: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "sft"
    done = run(
        "sft.py",
        caches,
        data_dir=data_dir,
        model_name_or_path=backbone_dir,
        output_dir=folder,
        tasks=["all"],
        mixture_weights={"title": 0.5},
        task_weights={"alignment": 2.0},
        grounding_epochs=1,
        **SETTINGS,
    )
    return folder, done


def check_metrics(folder):
    metrics = json.loads((Path(folder) / "metrics.json").read_text())
    assert {"eval_loss", "eval_hr@10", "eval_ndcg@10", "eval_sid_hr@1", "eval_loss/sequence"} <= set(metrics)
    assert metrics["eval_loss"] > 0 and 0 <= metrics["eval_ndcg@10"] <= metrics["eval_hr@10"] <= 1
    return metrics


def check_tables(text, split="test"):
    """Tables by item and by SID, of every slice that has rows, with the three recommenders as rows."""
    titles = re.findall(rf"^{split}, (\w+) targets \((\d+) rows\), match by (item|sid)$", text, re.MULTILINE)
    assert {(name, match) for name, _, match in titles} >= {
        (name, match) for name in ("all", "cold", "repeat") for match in ("item", "sid")
    }
    tables = dict(
        zip([(name, match) for name, _, match in titles], re.split(r"^.*targets \(.*$", text, flags=re.M)[1:])
    )
    for name, rows, match in titles:
        if int(rows):
            for recommender in ("model", "popularity", "next-item counts"):
                assert recommender in tables[name, match], (name, match)
    assert {name: int(rows) for name, rows, _ in titles}["all"] == 2
    return tables


@pytest.mark.parametrize("config", sorted((EXAMPLES / "configs").glob("sft_*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_read(config, tmp_path):
    script = runpy.run_path(str(EXAMPLES / "sft.py"))
    parser = TrlParser((script["ScriptArguments"], TSRecSFTConfig, ModelConfig))
    line = [
        "--config",
        str(config),
        "--data_dir",
        "here",
        "--model_name_or_path",
        "there",
        "--output_dir",
        str(tmp_path),
    ]
    # The graphics card that some of them ask for is not here.
    script_args, training_args, model_args = parser.parse_args_and_config(line + ["--tf32", "False"])
    assert (script_args.data_dir, model_args.model_name_or_path) == ("here", "there")
    assert training_args.learning_rate > 0 and not training_args.packing


def test_training_and_evaluation_from_end_to_end(
    data_dir, backbone_dir, tmp_path, datasets_cache, monkeypatch, capsys
):
    folder = tmp_path / "sft"
    run_here("sft.py", monkeypatch, data_dir=data_dir, model_name_or_path=backbone_dir, output_dir=folder, **SETTINGS)
    printed = capsys.readouterr().out
    assert "Tiny_Tools" in printed and "seed: 42" in printed
    metrics = check_metrics(folder)
    assert json.dumps(metrics["eval_ndcg@10"]) in printed
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert same_weights(folder, folder / "checkpoint-4") and not same_weights(folder, folder / "checkpoint-2")

    run_here(
        "evaluate.py",
        monkeypatch,
        model_name_or_path=folder,
        data_dir=data_dir,
        num_beams=7,
        output_file=tmp_path / "figures.json",
        update_card=True,
    )
    printed = capsys.readouterr().out
    check_tables(printed)
    [decoding] = [line for line in printed.splitlines() if line.startswith("Decoding: ")]
    for setting in ("num_beams=7", "length_penalty=0", "prompt_version=", "max_history=10", "rows=2 of test"):
        assert setting in decoding
    # The file holds what the evaluator says of the same lists.
    figures = json.loads((tmp_path / "figures.json").read_text())
    dataset = load_minionerec(data_dir)
    evaluator = RecommendationEvaluator(dataset.test, dataset.sid_index, dataset.train)
    model, tokenizer = TSRecForCausalLM.from_pretrained(folder), TSRecTokenizer.from_pretrained(folder)
    histories = dataset.test["history"][:]
    expected = {
        "model": evaluator.evaluate_model(model, tokenizer, num_beams=7),
        "popularity": evaluator.evaluate(PopularityRecommender(dataset.train).recommend(histories, evaluator.top_k)),
        "next-item counts": evaluator.evaluate(
            NextItemRecommender(dataset.train).recommend(histories, evaluator.top_k)
        ),
    }
    assert figures["results"] == expected
    # The card that training left has the validation's figures and these.
    card = ModelCard.load(folder / "README.md")
    found = {(result.dataset_split, result.metric_name): result.metric_value for result in card.data.eval_results}
    assert found["test", "NDCG@10, by item"] == pytest.approx(expected["model"]["all"]["ndcg@10"], abs=1e-6)
    assert found["validation", "HR@10, by item"] == pytest.approx(metrics["eval_hr@10"], abs=1e-6)
    assert "### Tiny_Tools, test" in card.text and "6 train, 2 valid, 2 test" in card.text
    # Cheese is in no training row; bread stands in the history it is the target of.
    assert [expected["model"][name]["num_rows"] for name in ("all", "cold", "repeat", "new")] == [2, 1, 1, 0]

    # Another catalogue, whose SIDs are spelled with the same tokens, is evaluated on purpose only.
    other = tmp_path / "other"
    other.mkdir()
    for path in data_dir.iterdir():
        (other / path.name).write_text(path.read_text().replace("hammer", "mallet"))
    settings = {"model_name_or_path": folder, "data_dir": other, "num_beams": 7, "scoring": "catalogue"}
    with pytest.raises(ValueError, match="the catalogue of the checkpoint .*`--transfer true`"):
        run_here("evaluate.py", monkeypatch, **settings)
    run_here("evaluate.py", monkeypatch, transfer=True, search="exact", **settings)
    printed = capsys.readouterr().out
    check_tables(printed)
    [decoding] = [line for line in printed.splitlines() if line.startswith("Decoding: ")]
    for setting in ("transferred from SIDIndex(8 items", "search=exact", "scoring=catalogue"):
        assert setting in decoding


@pytest.mark.slow
def test_sft_writes_what_it_did(trained):
    folder, done = trained
    metrics = check_metrics(folder)
    assert {"eval_loss/sequence", "eval_loss/history_title"} <= set(metrics)
    output = done.stdout + done.stderr
    assert "'alignment': 14" in output and "'title': 8" in output and "'history_title': 6" in output
    # The grounding stage first, 7 tokens of width 16 in a tied matrix.
    assert output.index("Trainable parameters: 112 of ") < output.index("(all)")
    assert (folder / "sid_index.safetensors").is_file()
    assert TSRecTokenizer.from_pretrained(folder).sid_index.fingerprint


@pytest.mark.slow
def test_sft_goes_on_from_a_checkpoint(trained, data_dir, backbone_dir, caches, tmp_path):
    folder, _ = trained
    resumed = tmp_path / "sft"
    shutil.copytree(folder / "checkpoint-2", resumed / "checkpoint-2")
    run(
        "sft.py",
        caches,
        data_dir=data_dir,
        model_name_or_path=backbone_dir,
        output_dir=resumed,
        tasks=["all"],
        mixture_weights={"title": 0.5},
        task_weights={"alignment": 2.0},
        grounding_epochs=1,
        resume_from_checkpoint=resumed / "checkpoint-2",
        **SETTINGS,
    )
    assert same_weights(resumed, folder)
    before, after = check_metrics(folder), check_metrics(resumed)
    timeless = [name for name in before if not re.search("runtime|per_second|num_tokens", name)]
    assert {name: after[name] for name in timeless} == pytest.approx({name: before[name] for name in timeless})


@pytest.mark.slow
def test_sft_starts_from_a_recommender(trained, data_dir, caches, tmp_path):
    folder, _ = trained
    settings = {**SETTINGS, "max_steps": 1, "learning_rate": 0.0}
    run("sft.py", caches, data_dir=data_dir, model_name_or_path=folder, output_dir=tmp_path / "more", **settings)
    assert same_weights(folder, tmp_path / "more")
    # Data of another index are refused.
    other = shutil.copytree(data_dir, tmp_path / "other")
    (other / "index.json").write_text((other / "index.json").read_text().replace("<c_1>", "<c_9>"))
    for split in ("train", "valid", "test"):
        path = other / f"{split}.csv"
        path.write_text(path.read_text().replace("<c_1>", "<c_9>"))
    done = run(
        "sft.py",
        caches,
        check=False,
        data_dir=other,
        semantics_file="none",
        model_name_or_path=folder,
        output_dir=tmp_path / "no",
        **settings,
    )
    assert done.returncode != 0 and "the data have another index" in done.stderr


@pytest.mark.slow
def test_sft_without_semantics(data_dir, backbone_dir, caches, tmp_path):
    bare = shutil.copytree(data_dir, tmp_path / "bare")
    (bare / "description_keywords.json").unlink()
    settings = {**SETTINGS, "max_steps": 1, "data_dir": bare, "model_name_or_path": backbone_dir}
    done = run("sft.py", caches, output_dir=tmp_path / "out", semantics_file="none", **settings)
    assert "'pooling': 'resize'" in done.stdout + done.stderr
    check_metrics(tmp_path / "out")


@pytest.mark.slow
def test_evaluate_in_two_processes_prints_the_same(trained, data_dir, caches, tmp_path):
    folder, _ = trained
    settings = {"model_name_or_path": folder, "data_dir": data_dir, "num_beams": 7, "split": "train", "num_rows": 5}
    printed = {}
    for processes in (1, 2):
        file = tmp_path / f"{processes}.json"
        done = run("evaluate.py", caches, processes=processes, output_file=file, **settings)
        printed[processes] = done.stdout.splitlines(), json.loads(file.read_text())
    assert printed[1][1] == printed[2][1]
    assert printed[1][0] == printed[2][0]
    assert "rows=5 of train, drawn with seed 0" in printed[1][0][-1]
