"""Two processes over gloo on the CPU: the same figures as one process with batches of twice the size."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tsrec_hf.data import build_sft_mixture


SCRIPT = Path(__file__).parent / "two_processes.py"
WEIGHTS = {"title": 0.5, "alignment": 2.0}


@pytest.fixture
def folder(dataset, semantics, tokenizer, model, datasets_cache, tmp_path):
    build_sft_mixture(dataset, semantics, tokenizer).save_to_disk(tmp_path / "rows")
    # Five users for two processes.
    dataset.train.select(range(5)).save_to_disk(tmp_path / "interactions")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path


def in_two_processes(folder, name, **arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `accelerate launch --cpu --num_processes 2` starts a single process without a word: torchrun it is.
    command = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}"]
    run = subprocess.run(
        [sys.executable, *command, str(SCRIPT), str(folder), name, json.dumps(arguments)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads((folder / f"{name}.json").read_text())


def in_one_process(folder, name, **arguments):
    runpy.run_path(str(SCRIPT))["main"](str(folder), name, **arguments)
    return json.loads((folder / f"{name}.json").read_text())


def total(entry, prefix=""):
    tasks = [name.removeprefix(f"{prefix}loss/") for name in entry if name.startswith(f"{prefix}loss/")]
    assert tasks and sum(entry[f"{prefix}share/{task}"] for task in tasks) == pytest.approx(1, abs=1e-5)
    return sum(
        WEIGHTS.get(task, 1.0) * entry[f"{prefix}share/{task}"] * entry[f"{prefix}loss/{task}"] for task in tasks
    )


def of_tasks(entry):
    return {name: value for name, value in entry.items() if "loss/" in name or "share/" in name}


def check_two_against_one(folder, **arguments):
    arguments["per_device_eval_batch_size"] = 2
    two = in_two_processes(folder, "two", per_device_train_batch_size=2, **arguments)
    one = in_one_process(folder, "one", per_device_train_batch_size=4, **arguments)
    assert (two["world_size"], one["world_size"]) == (2, 1)
    assert len(two["train"]) == len(one["train"]) == 2
    for ours, theirs in zip(two["train"], one["train"]):
        assert total(ours) == pytest.approx(ours["loss"], abs=1e-4)
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert of_tasks(ours) == pytest.approx(of_tasks(theirs), abs=1e-4)
    for name in ("even", "odd"):
        # Seven rows: one is repeated to fill the last batches, and counted by none of the figures.
        metrics = {key: value for key, value in two["metrics"].items() if key.startswith(f"eval_{name}_")}
        assert total(metrics, f"eval_{name}_") == pytest.approx(metrics[f"eval_{name}_loss"], abs=1e-4)
        figures = {key: value for key, value in metrics.items() if "@" in key}
        assert len(figures) == 16 and 0 < figures[f"eval_{name}_ndcg@10"] < 1
        assert figures == pytest.approx({key: one["metrics"][key] for key in figures}, abs=1e-6)
    # Eight rows fill the batches of both: the losses are equal as well.
    assert two["metrics"]["eval_even_loss"] == pytest.approx(one["metrics"]["eval_even_loss"], abs=1e-4)
    assert of_tasks({key: value for key, value in two["metrics"].items() if "even" in key}) == pytest.approx(
        of_tasks({key: value for key, value in one["metrics"].items() if "even" in key}), abs=1e-4
    )
    return two, one


def test_two_processes_equal_one(folder):
    check_two_against_one(folder, learning_rate=0.0)


@pytest.mark.slow
def test_two_processes_train_the_same_weights(folder):
    two, one = check_two_against_one(folder, learning_rate=1e-3)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_share_the_rows_of_a_stream(folder):
    two, one = check_two_against_one(folder, learning_rate=1e-3, num_shards=1)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-4)


@pytest.mark.slow
def test_an_evaluation_before_the_training_changes_nothing(folder):
    two, one = check_two_against_one(folder, learning_rate=1e-3, evaluate_first=True)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-4)
