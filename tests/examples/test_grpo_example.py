"""`grpo.py` on a tiny folder in MiniOneRec's layout, from a tiny checkpoint."""

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from trl import ModelConfig, TrlParser

from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.trainers import TSRecGRPOConfig


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
    script = runpy.run_path(str(EXAMPLES / "grpo.py"))
    parser = TrlParser((script["ScriptArguments"], TSRecGRPOConfig, ModelConfig))
    line = ["--config", str(config), *options(data_dir="here", model_name_or_path="there", output_dir=tmp_path)]
    # The graphics card that some of them ask for is not here.
    script_args, training_args, _ = parser.parse_args_and_config(line + ["--tf32", "False"])
    assert script_args.rewards == ["exact_match", "ranking"] and training_args.num_generations == 16


def test_from_a_checkpoint_with_every_reward(checkpoint, data_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "grpo"
    rewards = ["exact_match", "ranking", "prefix", "semantic", "collaborative"]
    settings = {"data_dir": data_dir, "model_name_or_path": checkpoint, "output_dir": out, "rewards": rewards}
    line = options(**settings, reward_weights=[1.0, 1.0, 0.5, 0.5, 0.25], advantage_level="token", **SETTINGS)
    monkeypatch.setattr(sys, "argv", ["grpo.py", *line])
    runpy.run_path(str(EXAMPLES / "grpo.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "seed: 42; prompts: 6" in printed and "'collaborative': 0.25" in printed and "advantages: token" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"start_ndcg@10", "eval_ndcg@10", "eval_hr@10", "eval_rewards/semantic_reward/mean"} <= set(metrics)
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    model, tokenizer = TSRecForCausalLM.from_pretrained(out), TSRecTokenizer.from_pretrained(out)
    assert len(model.recommend(tokenizer, [["hammer"]], top_k=5)[0]) == 5


def test_another_catalogue_and_unknown_rewards_are_refused(checkpoint, data_dir, tmp_path, monkeypatch):
    text = (data_dir / "index.json").read_text()
    script = str(EXAMPLES / "grpo.py")
    settings = {"data_dir": data_dir, "model_name_or_path": checkpoint, "output_dir": tmp_path / "out", **SETTINGS}
    for path in list(data_dir.iterdir()):
        path.write_text(path.read_text().replace("hammer", "mallet"))
    monkeypatch.setattr(sys, "argv", ["grpo.py", *options(**settings)])
    with pytest.raises(ValueError, match="the data have another index"):
        runpy.run_path(script, run_name="__main__")
    assert "mallet" not in text
    monkeypatch.setattr(sys, "argv", ["grpo.py", *options(**settings, rewards=["exact"])])
    with pytest.raises(ValueError, match=r"some of .*'exact_match'.*found \['exact'\]"):
        runpy.run_path(script, run_name="__main__")


def test_accelerate_launch_on_two_processes(checkpoint, data_dir, tmp_path):
    out = tmp_path / "two"
    config = EXAMPLES / "configs" / "accelerate_two_cpus.yaml"
    settings = {"data_dir": data_dir, "model_name_or_path": checkpoint, "output_dir": out, **SETTINGS}
    run = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--main_process_port", "0",
         str(EXAMPLES / "grpo.py"), *options(**settings)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
             "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["eval_completions/invalid"] == 0 and 0 <= metrics["eval_hr@10"] <= 1
    assert run.stdout.count("rollout: beam") == 1
