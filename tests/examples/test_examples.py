"""The example scripts on a tiny folder in MiniOneRec's layout, with a tiny backbone."""

import csv
import json
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from huggingface_hub import ModelCard
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import ModelConfig, TrlParser

from tsrec_hf.evaluation import NextItemRecommender, PopularityRecommender, RecommendationEvaluator
from tsrec_hf.hub import export_backbone, load_recommender
from tsrec_hf.items import load_minionerec
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.recipes.options import FineTuneOptions
from tsrec_hf.semantics import TokenSemantics
from tsrec_hf.trainers import TSRecGRPOTrainer, TSRecSFTConfig, TSRecSFTTrainer, lora_config


EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = EXAMPLES / "accelerate_configs"
FSDP2 = str(CONFIGS / "fsdp2.yaml")
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


def run(script, caches, check=True, **settings):
    """Runs an example as users do."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options(**settings)],
        env={**os.environ, **caches, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


def launch(script, config, caches, **settings):
    """Runs an example by `accelerate launch` with a file of `examples/accelerate_configs`."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / script), *options(**settings)],
        env={**os.environ, **caches, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
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


def check_metrics(folder, described=True):
    metrics = json.loads((Path(folder) / "metrics.json").read_text())
    assert {"eval_loss", "eval_hr@10", "eval_ndcg@10", "eval_sid_hr@1", "eval_loss/sequence"} <= set(metrics)
    if described:
        assert len(TokenSemantics.from_json(Path(folder) / "description_keywords.json")) > 0
    assert metrics["eval_loss"] > 0 and 0 <= metrics["eval_ndcg@10"] <= metrics["eval_hr@10"] <= 1
    return metrics


def check_tables(text, split="test"):
    """One table by item and by SID, of every slice that has rows, with the three recommenders."""
    assert f"split={split}" in text and text.count("| targets | rows | match by | method |") == 1
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (item|sid) \| ([^|]+) \| \d", text, re.MULTILINE)
    assert {(name, match, method) for name, _, match, method in rows} >= {
        (name, match, method)
        for name in ("all", "cold", "repeat")
        for match in ("item", "sid")
        for method in ("model", "popularity", "next-item counts")
    }
    assert {name: int(number) for name, number, *_ in rows}["all"] == 2


@pytest.mark.parametrize("config", sorted((EXAMPLES / "configs").glob("sft_*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_read(config, tmp_path):
    parser = TrlParser((FineTuneOptions, TSRecSFTConfig, ModelConfig))
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
    assert "| model, by item |" in printed and f"eval_loss {metrics['eval_loss']:.4f}" in printed
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


def test_histories_are_as_long_as_the_data_sets(
    module_conftest, backbone_dir, tmp_path, datasets_cache, monkeypatch, capsys
):
    """What the splits kept is what training, evaluation and `recommend` read."""
    folder = tmp_path / "native"
    replace(module_conftest.make_dataset(), max_history=4).save(folder)
    module_conftest.make_semantics().to_json(folder / "description_keywords.json")
    settings = {
        **SETTINGS,
        "max_steps": 1,
        "data_dir": folder,
        "model_name_or_path": backbone_dir,
        "tasks": "sequence",
    }
    run_here("sft.py", monkeypatch, output_dir=tmp_path / "sft", **settings)
    tokenizer = TSRecTokenizer.from_pretrained(tmp_path / "sft")
    assert tokenizer.max_history == 4 and TSRecForCausalLM.from_pretrained(tmp_path / "sft").config.max_history == 4
    capsys.readouterr()
    run_here("evaluate.py", monkeypatch, model_name_or_path=tmp_path / "sft", data_dir=folder, num_beams=7)
    assert "max_history=4" in capsys.readouterr().out

    # With a prior the checkpoint's own lists stand beside the model's and the prior's.
    run_here("fit_prior.py", monkeypatch, model_name_or_path=tmp_path / "sft", data_dir=folder)
    fitted = capsys.readouterr().out
    run_here("evaluate.py", monkeypatch, model_name_or_path=tmp_path / "sft", data_dir=folder, num_beams=7)
    printed = capsys.readouterr().out
    assert "| fused |" in fitted and "Chosen: " in fitted and "Saved to " in fitted
    prior = TSRecTokenizer.from_pretrained(tmp_path / "sft").prior
    assert ("| model and prior |" in printed) == ("| prior |" in printed) == (prior is not None)


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
def test_two_processes_say_everything_once(data_dir, backbone_dir, caches, tmp_path):
    settings = {**SETTINGS, "max_steps": 2, "data_dir": data_dir, "model_name_or_path": backbone_dir}
    done = launch("sft.py", "two_cpus", caches, output_dir=tmp_path / "sft", **settings)
    output = done.stdout + done.stderr
    for line in (
        "seed: 42",
        "Rows per task",
        "Trainable parameters",
        "| model, by item |",
        "Recommender, card, plots",
    ):
        assert output.count(line) == 1, f"{line}\n{output}"
    assert "FutureWarning" not in output and "gemm_4bit_forward" not in output


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


@pytest.mark.parametrize("script", ["sft.py", "grpo.py"])
def test_what_was_trained_stays_whatever_the_evaluation_does(
    script, make_recommender, backbone_dir, data_dir, tmp_path, datasets_cache, monkeypatch
):
    start, method, settings = backbone_dir, TSRecSFTTrainer, {**SETTINGS}
    if script == "grpo.py":
        model, tokenizer = make_recommender("llama")
        model.save_pretrained(tmp_path / "start"), tokenizer.save_pretrained(tmp_path / "start")
        start, method = tmp_path / "start", TSRecGRPOTrainer
        settings |= {"num_generations": 2}

    def fail(self, *args, **kwargs):
        if self.state.global_step:  # the start is evaluated as well, before there is anything to lose
            raise RuntimeError("no evaluation")

    monkeypatch.setattr(method, "evaluate", fail)
    settings |= {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "output_dir": tmp_path / "out"}
    with pytest.raises(RuntimeError, match="no evaluation"):
        run_here(script, monkeypatch, data_dir=data_dir, model_name_or_path=start, **settings)
    loaded, tokenizer = load_recommender(tmp_path / "out")
    assert len(loaded.recommend(tokenizer, [["hammer"]], top_k=3)[0]) == 3


def test_sft_takes_over_a_model_that_spells_sids_already(
    make_recommender, data_dir, tmp_path, datasets_cache, monkeypatch, capsys
):
    model, tokenizer = make_recommender("llama")
    folder = export_backbone(model, tmp_path / "theirs", tokenizer)
    settings = {**SETTINGS, "max_steps": 1, "learning_rate": 0.0, "eval_strategy": "no", "save_strategy": "no"}
    settings |= {"data_dir": data_dir, "model_name_or_path": folder, "output_dir": tmp_path / "out"}
    with pytest.raises(ValueError, match="its vocabulary holds '<a_0>'.*by `existing_tokens='keep'`"):
        run_here("sft.py", monkeypatch, **settings)
    run_here("sft.py", monkeypatch, existing_tokens="keep", **settings)
    assert "| model, by item |" in capsys.readouterr().out
    ours, theirs = load_recommender(tmp_path / "out")
    histories = [["hammer", "nail"], ["apple"]]
    assert ours.recommend(theirs, histories, top_k=6) == model.recommend(tokenizer, histories, top_k=6)


@pytest.mark.slow
def test_sft_without_semantics(data_dir, backbone_dir, caches, tmp_path):
    bare = shutil.copytree(data_dir, tmp_path / "bare")
    (bare / "description_keywords.json").unlink()
    settings = {**SETTINGS, "max_steps": 1, "data_dir": bare, "model_name_or_path": backbone_dir}
    done = run("sft.py", caches, output_dir=tmp_path / "out", semantics_file="none", **settings)
    assert "'pooling': 'resize'" in done.stdout + done.stderr
    check_metrics(tmp_path / "out", described=False)


LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0}


def test_lora_from_end_to_end(data_dir, backbone_dir, tmp_path, datasets_cache, monkeypatch, capsys, caplog):
    folder = tmp_path / "sft"
    settings = {**SETTINGS, **LORA, "data_dir": data_dir, "model_name_or_path": backbone_dir, "max_steps": 2}
    with caplog.at_level(logging.INFO, logger="tsrec_hf"):
        run_here("sft.py", monkeypatch, output_dir=folder, **settings)
    # 2 layers; q: 4 x (16 + 16), v: 4 x (16 + 4); 7 tokens of width 16 in a tied matrix
    assert "LoRA on q_proj, v_proj: 416; SID rows: 112)" in caplog.text
    metrics = check_metrics(folder)
    assert not (folder / "model.safetensors").exists()
    # The base is the backbone with its SID rows as SA-Init made them: nothing else knows these.
    base = TSRecForCausalLM.from_pretrained(folder / "_base")
    assert base.config.sid_initialization["pooling"] == "idf"
    model, tokenizer = load_recommender(folder)
    rows = [token_id for level in tokenizer.sid_token_ids for token_id in level]
    before, after = base.get_input_embeddings().weight, model.get_input_embeddings().weight
    changed = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert changed and set(changed) <= set(rows)
    # The evaluation of the adapter is that of the run.
    capsys.readouterr()
    file = tmp_path / "figures.json"
    run_here(
        "evaluate.py",
        monkeypatch,
        model_name_or_path=folder,
        data_dir=data_dir,
        split="valid",
        num_beams=7,
        output_file=file,
    )
    found = json.loads(file.read_text())["results"]["model"]["all"]
    assert {name: metrics[f"eval_{name}"] for name in found if "@" in name} == pytest.approx(
        {name: value for name, value in found.items() if "@" in name}
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_qlora_with_a_grounding_stage(wide_backbone, data_dir, caches, tmp_path, kind):
    folder = tmp_path / "sft"
    settings = {**SETTINGS, **LORA, kind: True, "optim": "adamw_8bit", "data_dir": data_dir}
    done = run("sft.py", caches, model_name_or_path=wide_backbone, output_dir=folder, grounding_epochs=1, **settings)
    output = done.stdout + done.stderr
    assert output.index("(SID rows)") < output.index("LoRA on q_proj, v_proj: ")
    check_metrics(folder)
    # The base holds full weights with the rows as grounding left them.
    base, _ = load_recommender(folder / "_base")
    plain = TSRecForCausalLM.from_backbone(
        wide_backbone,
        TSRecTokenizer.from_pretrained(folder),
        TokenSemantics.from_json(data_dir / "description_keywords.json"),
    )
    rows = [token_id for level in TSRecTokenizer.from_pretrained(folder).sid_token_ids for token_id in level]
    differs = (base.get_input_embeddings().weight != plain.get_input_embeddings().weight).any(dim=1)
    assert set(differs.nonzero().flatten().tolist()) == set(rows)
    out = tmp_path / "grpo"
    settings |= {"num_generations": 4, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "beta": 0.1}
    run("grpo.py", caches, model_name_or_path=folder, output_dir=out, **settings)
    model, tokenizer = load_recommender(out)
    assert len(model.recommend(tokenizer, [["hammer"]], top_k=5)[0]) == 5


@pytest.fixture
def wide_backbone(backbone_dir, tmp_path):
    """Wide enough for blocks of 4-bit weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(backbone_dir)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(backbone_dir).save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


@pytest.mark.slow
def test_frozen_backbone(data_dir, backbone_dir, caches, tmp_path):
    settings = {**SETTINGS, "data_dir": data_dir, "model_name_or_path": backbone_dir, "output_dir": tmp_path}
    done = launch("sft.py", "two_cpus", caches, freeze_backbone=True, **settings)
    assert "Trainable parameters: 112 of " in done.stdout + done.stderr
    model, tokenizer = load_recommender(tmp_path)
    semantics = TokenSemantics.from_json(data_dir / "description_keywords.json")
    before = dict(TSRecForCausalLM.from_backbone(backbone_dir, tokenizer, semantics).named_parameters())
    rows = [token_id for level in tokenizer.sid_token_ids for token_id in level]
    for name, parameter in model.named_parameters():
        changed = (parameter != before[name]).reshape(len(parameter), -1).any(dim=1).nonzero().flatten().tolist()
        assert set(changed) <= (set(rows) if "embed_tokens" in name else set()), name
        assert changed or "embed_tokens" not in name


class TestManyProcesses:
    @pytest.mark.slow
    @pytest.mark.parametrize("lora", [{}, LORA], ids=["all", "lora"])
    def test_sft_is_the_same_in_any_number_of_processes(self, data_dir, backbone_dir, caches, tmp_path, lora):
        """One process without and with a launcher, two with half the batch each."""
        found = {}
        settings = {**SETTINGS, **lora, "data_dir": data_dir, "model_name_or_path": backbone_dir}
        settings |= {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "per_device_eval_batch_size": 1}
        # 31 rows: none is repeated to fill the batches of the two steps.
        settings |= {"tasks": ["all"], "max_steps": 2}
        for name, size in (("python", 4), ("single_cpu", 4), ("two_cpus", 2)):
            settings |= {"output_dir": tmp_path / name, "per_device_train_batch_size": size}
            if name == "python":
                run("sft.py", caches, **settings)
            else:
                launch("sft.py", name, caches, **settings)
            processes = 2 if name == "two_cpus" else 1
            assert f"| processes | {processes} |" in (tmp_path / name / "README.md").read_text()
            model, _ = load_recommender(tmp_path / name)
            found[name] = check_metrics(tmp_path / name), torch.cat([p.detach().flatten() for p in model.parameters()])
        for name in ("single_cpu", "two_cpus"):
            torch.testing.assert_close(found[name][1], found["python"][1], rtol=0, atol=1e-4)
            figures = {key: value for key, value in found[name][0].items() if "@" in key}
            assert figures == pytest.approx({key: found["python"][0][key] for key in figures}, abs=1e-6)

    @pytest.mark.slow
    def test_evaluate_prints_the_same_in_any_number_of_processes(self, trained, data_dir, caches, tmp_path):
        folder, _ = trained
        # Five users for two processes.
        settings = {
            "model_name_or_path": folder,
            "data_dir": data_dir,
            "num_beams": 7,
            "split": "train",
            "num_rows": 5,
        }
        printed = {}
        for name in ("python", "single_cpu", "two_cpus"):
            file = tmp_path / f"{name}.json"
            if name == "python":
                done = run("evaluate.py", caches, output_file=file, **settings)
            else:
                done = launch("evaluate.py", name, caches, output_file=file, **settings)
            *lines, last = done.stdout.splitlines()
            assert last == f"Written to {file}"
            printed[name] = lines, json.loads(file.read_text())
        assert printed["python"] == printed["single_cpu"] == printed["two_cpus"]
        assert "rows=5 of train, drawn with seed 0" in printed["python"][0][0]

    @pytest.mark.slow
    def test_fsdp2_trains_the_same_weights(self, trained, data_dir, caches, tmp_path):
        """FSDP2 as `fsdp2.yaml` sets it, over gloo: SFT, then GRPO with a reference, against one process."""
        folder, _ = trained
        fsdp = {name.upper(): str(value) for name, value in load_config_from_file(FSDP2).fsdp_config.items()}
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d"]
        launcher += ["--rdzv-endpoint=localhost:0", str(Path(__file__).with_name("fsdp_on_cpus.py"))]
        both = {**SETTINGS, "data_dir": data_dir, "model_name_or_path": folder, "max_steps": 2, "save_steps": 1}
        both |= {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
        grpo = {"num_generations": 4, "beta": 0.1, "per_device_eval_batch_size": 4, "activation_checkpointing": False}
        for script, size, settings in (("sft.py", 2, {"tasks": ["all"]}), ("grpo.py", 4, grpo)):
            settings = {**both, **settings, "output_dir": tmp_path / f"fsdp-{script}"}
            done = subprocess.run(
                [
                    *(sys.executable, *launcher, str(EXAMPLES / script)),
                    *options(**{**settings, "per_device_train_batch_size": size}),
                ],
                env={
                    **{**os.environ, **caches, **fsdp, "ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_CPU": "true"},
                    **{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
                },
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr[-4000:]
            sharded = tmp_path / f"fsdp-{script}"
            assert (sharded / "checkpoint-2" / "pytorch_model_fsdp.bin").is_file()  # it was FSDP indeed
            assert "| processes | 2 |" in (sharded / "README.md").read_text()
            one = tmp_path / f"one-{script}"
            run(script, caches, **{**settings, "output_dir": one, "per_device_train_batch_size": 2 * size})
            # Loaded: the file of a tied head's weights holds them twice, since they were gathered twice.
            ours, theirs = (dict(load_recommender(place)[0].named_parameters()) for place in (sharded, one))
            assert set(ours) == set(theirs)
            for name in ours:
                torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)
            # The checkpoint carries our code, not torch's.
            assert (sharded / "modeling_tsrec.py").is_file() and not list(sharded.glob("_fsdp*.py"))
            names = [name for name in json.loads((one / "metrics.json").read_text()) if "@" in name]
            figures = [json.loads((place / "metrics.json").read_text()) for place in (sharded, one)]
            assert [figures[0][name] for name in names] == pytest.approx([figures[1][name] for name in names])

    @pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
    def test_files_are_read(self, path):
        config = load_config_from_file(str(path))
        assert config.num_processes == {"single_cpu": 1, "two_cpus": 2}.get(path.stem, 8)
        # `accelerate` starts a single process for MULTI_CPU, without a word.
        kinds = {"single_cpu": "NO", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED"}
        assert config.distributed_type == kinds.get(path.stem, "MULTI_GPU")
        assert config.use_cpu == path.stem.endswith(("_cpu", "_cpus"))
        # A path that the first line names as the command to start with.
        assert f"examples/accelerate_configs/{path.name}" in path.read_text().splitlines()[0]
        assert (EXAMPLES / "accelerate_configs" / path.name).is_file()

    @pytest.mark.parametrize(
        ("kind", "layer"), [("llama", "LlamaDecoderLayer"), ("gpt2", "GPT2Block"), ("gemma3", "Gemma3DecoderLayer")]
    )
    @pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
    def test_fsdp_shards_the_layers_of_the_backbone(self, make_recommender, monkeypatch, kind, layer, lora):
        model, tokenizer = make_recommender(kind)
        if lora:
            model = get_peft_model(model, lora_config(model, tokenizer, ModelConfig(**LORA)))
        config = load_config_from_file(FSDP2).fsdp_config
        for name, value in config.items():
            monkeypatch.setenv(name.upper(), str(value))
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2
        plugin.set_auto_wrap_policy(model)
        policy = fsdp2_prepare_auto_wrap_policy(plugin, model)
        assert [type(module).__name__ for module in model.modules() if policy(module)] == [layer, layer]
