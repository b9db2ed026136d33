"""`grpo.py` on a tiny folder in MiniOneRec's layout, from a tiny checkpoint."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from trl import ModelConfig, TrlParser

from tsrec_hf.hub import load_recommender
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.recipes.options import TuneOptions
from tsrec_hf.recipes.tune import compare_with_start
from tsrec_hf.trainers import TSRecGRPOConfig, lora_config


EXAMPLES = Path(__file__).parents[2] / "examples"
COLUMNS = ["user_id", "history_item_title", "item_title", "history_item_id", "item_id", "history_item_sid", "item_sid"]
SETTINGS = {
    "max_steps": 2,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_num_beams": 7,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_ndcg@10",
    "activation_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "sft")
    tokenizer.save_pretrained(tmp_path / "sft")
    return tmp_path / "sft"


@pytest.fixture
def data_dir(dataset, semantics, tmp_path, datasets_cache):
    folder = tmp_path / "Tiny_Tools"
    folder.mkdir()
    index, title_of = dataset.sid_index, dict(zip(dataset.items["item_id"], dataset.items["title"]))
    index.to_json(folder / "index.json")
    semantics.to_json(folder / "description_keywords.json")
    items = {row["item_id"]: {"title": row["title"], "description": row["description"]} for row in dataset.items}
    (folder / "item.json").write_text(json.dumps(items))
    for split in ("train", "valid", "test"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in getattr(dataset, split):
                history, target = row["history"], row["target"]
                sids = [index.sid_of(item) for item in history]
                titles = [title_of[item] for item in history]
                writer.writerow(
                    [row["user_id"], titles, title_of[target], history, target, sids, index.sid_of(target)]
                )
    return folder


def options(**settings) -> list[str]:
    line = []
    for name, value in settings.items():
        line += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return line


@pytest.mark.parametrize("config", sorted((EXAMPLES / "configs").glob("grpo_*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_read(config, tmp_path):
    parser = TrlParser((TuneOptions, TSRecGRPOConfig, ModelConfig))
    line = ["--config", str(config), *options(data_dir="here", model_name_or_path="there", output_dir=tmp_path)]
    # The graphics card that some of them ask for is not here.
    script_args, training_args, _ = parser.parse_args_and_config(line + ["--tf32", "False"])
    assert script_args.rewards == ["exact_match", "ranking"] and training_args.num_generations == 16
    assert training_args.max_grad_norm == 0.3 and not training_args.activation_checkpointing


def test_lists_that_got_worse_are_told():
    found = SimpleNamespace(ranks={0: torch.zeros(40, dtype=torch.int64), 3: torch.full((40,), -1)})
    assert compare_with_start(found, 3) == (
        "NDCG@10 of 40 validation users: 1.0000 at the start, 0.0000 now, difference -1.0000 [-1.0000, -1.0000] over "
        "users. The lists got worse: keep the recommender you started from."
    )
    found.ranks[3] = found.ranks[0]
    assert compare_with_start(found, 3).endswith("difference +0.0000 [+0.0000, +0.0000] over users.")


def run_here(monkeypatch, **settings) -> None:
    monkeypatch.setattr(sys, "argv", ["grpo.py", *options(**settings)])
    runpy.run_path(str(EXAMPLES / "grpo.py"), run_name="__main__")


def test_from_a_checkpoint_with_every_reward(checkpoint, data_dir, tmp_path, monkeypatch, capsys):
    settings = {"data_dir": data_dir, "model_name_or_path": checkpoint, "output_dir": tmp_path / "grpo", **SETTINGS}
    rewards = ["exact_match", "ranking", "prefix", "semantic", "collaborative"]
    run_here(
        monkeypatch,
        **settings,
        rewards=rewards,
        reward_weights=[1.0, 1.0, 0.5, 0.5, 0.25],
        level_weights=[2.0, 1.0, 1.0],
        advantage_level="token",
        dynamic_sampling=True,
    )
    printed = capsys.readouterr().out
    assert "rewards: 1 exact_match, 1 ranking, 0.5 prefix, 0.5 semantic, 0.25 collaborative" in printed
    assert "advantages: of a token" in printed and "dynamic sampling: at most 4 draws" in printed
    assert "seed: 42" in printed and re.search(
        r"NDCG@10 of \d+ validation users: 0\.\d{4} at the start, 0\.\d{4} now, difference [+-]0\.\d{4} \[", printed
    )
    metrics = json.loads((tmp_path / "grpo" / "metrics.json").read_text())
    assert {"eval_ndcg@10", "eval_sid_hr@1"} | {f"eval_rewards/{name}_reward/mean" for name in rewards} <= set(metrics)
    described = (tmp_path / "grpo" / "description_keywords.json").read_text()
    assert described == (data_dir / "description_keywords.json").read_text()
    # The best of the start and the two checkpoints is what is saved and what the figures are of.
    state = json.loads((tmp_path / "grpo" / "checkpoint-2" / "trainer_state.json").read_text())
    assert metrics["eval_ndcg@10"] == pytest.approx(state["best_metric"])
    assert "dynamic_sampling/drawn" in next(entry for entry in state["log_history"] if "loss" in entry)
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "grpo", tmp_path / "sft")]
    changed = any(not weights[0][name].equal(weights[1][name]) for name in weights[1])
    assert changed == (state["best_global_step"] > 0)
    model = TSRecForCausalLM.from_pretrained(tmp_path / "grpo")
    tokenizer = TSRecTokenizer.from_pretrained(tmp_path / "grpo")
    assert len(model.recommend(tokenizer, [["hammer"]], top_k=5)[0]) == 5


def test_a_run_without_evaluation_leaves_its_policy(checkpoint, data_dir, tmp_path, monkeypatch, capsys):
    settings = SETTINGS | {"eval_strategy": "no", "load_best_model_at_end": False}
    del settings["metric_for_best_model"]
    out = tmp_path / "grpo"
    run_here(
        monkeypatch,
        data_dir=data_dir,
        model_name_or_path=checkpoint,
        output_dir=out,
        eval_num_users=0,
        **settings,
    )
    printed = capsys.readouterr().out
    assert f"Recommender, card, plots and metrics: {out}" in printed and "eval_reward" not in printed
    assert json.loads((out / "metrics.json").read_text()) == {}
    assert TSRecForCausalLM.from_pretrained(out) and "## Evaluation" not in (out / "README.md").read_text()


def test_what_cannot_work_is_refused(checkpoint, backbone_dir, data_dir, tmp_path, monkeypatch):
    settings = {"data_dir": data_dir, "model_name_or_path": checkpoint, "output_dir": tmp_path / "out", **SETTINGS}
    with pytest.raises(ValueError, match=r"among .*'exact_match'.*found \['exact'\]"):
        run_here(monkeypatch, **settings, rewards=["exact"])
    with pytest.raises(ValueError, match="type 'llama'.*examples/sft.py"):
        run_here(monkeypatch, **{**settings, "model_name_or_path": backbone_dir})
    for path in data_dir.iterdir():
        path.write_text(path.read_text().replace("hammer", "mallet"))
    with pytest.raises(ValueError, match="the data have another index"):
        run_here(monkeypatch, **settings)


def test_an_adapter_that_sft_left_is_merged_and_a_new_one_trained(
    checkpoint, tokenizer, data_dir, tmp_path, monkeypatch, capsys
):
    model, _ = load_recommender(checkpoint)
    adapted = get_peft_model(model, lora_config(model, tokenizer, ModelConfig(use_peft=True)))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    merged, _ = load_recommender(tmp_path / "adapter")

    out = tmp_path / "grpo"
    settings = {"data_dir": data_dir, "model_name_or_path": tmp_path / "adapter", "output_dir": out, **SETTINGS}
    run_here(monkeypatch, **settings, use_peft=True, lora_r=4, beta=0.1)
    # The reference is what SFT left, which is the base of the new adapter.
    base = TSRecForCausalLM.from_pretrained(out / "_base")
    weights = dict(merged.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in base.named_parameters())
    log = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert [entry["kl"] for entry in log if "kl" in entry][0] == pytest.approx(0.0, abs=1e-6)
    trained, theirs = load_recommender(out)
    assert len(trained.recommend(theirs, [["hammer"]], top_k=5)[0]) == 5
    assert not (out / "model.safetensors").exists() and (out / "sid_index.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("config", ["single_cpu", "two_cpus"])
def test_accelerate_launch(config, checkpoint, data_dir, tmp_path):
    processes = {"single_cpu": 1, "two_cpus": 2}[config]
    out = tmp_path / "launched"
    settings = {"data_dir": data_dir, "model_name_or_path": checkpoint, "output_dir": out, **SETTINGS}
    settings |= {"rewards": ["semantic"]}
    settings |= {f"per_device_{mode}_batch_size": 8 // processes for mode in ("train", "eval")}
    launcher = ["-m", "accelerate.commands.launch", "--config_file", EXAMPLES / f"accelerate_configs/{config}.yaml"]
    run = subprocess.run(
        [sys.executable, *map(str, launcher), str(EXAMPLES / "grpo.py"), *options(**settings)],
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.count("rewards: 1 semantic") == 1
    launched = json.loads((out / "metrics.json").read_text())
    assert launched["eval_completions/invalid"] == 0
    assert f"| processes | {processes} |" in (out / "README.md").read_text()
    # What one process with batches of the whole size does.
    settings |= {"output_dir": tmp_path / "one", "per_device_train_batch_size": 8}
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_here(monkeypatch, **settings)
    one = json.loads((tmp_path / "one" / "metrics.json").read_text())
    names = [name for name in launched if "@" in name or name.endswith("reward/mean")]
    assert {name: launched[name] for name in names} == pytest.approx({name: one[name] for name in names}, abs=1e-4)
