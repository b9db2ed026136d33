"""GRPO with two processes over gloo on the CPU equals one process with batches of twice the size."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tsrec_hf.data import build_grpo_rows


SCRIPT = Path(__file__).parent / "grpo_two_processes.py"


@pytest.fixture
def folder(dataset, tokenizer, model, datasets_cache, tmp_path):
    build_grpo_rows(dataset.train, tokenizer).save_to_disk(tmp_path / "rows")
    # Five users for two processes.
    dataset.train.select(range(5)).save_to_disk(tmp_path / "interactions")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("shared_prefix", [True, False], ids=["one pass", "TRL's own path"])
def test_two_processes_equal_one(folder, shared_prefix):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}"]
    arguments = {"per_device_train_batch_size": 4, "shared_prefix": shared_prefix}
    run = subprocess.run(
        [sys.executable, *command, str(SCRIPT), str(folder), "two", json.dumps(arguments)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    # One process with the other way of computing the loss: both must agree.
    arguments = {"per_device_train_batch_size": 8, "shared_prefix": not shared_prefix}
    runpy.run_path(str(SCRIPT))["main"](str(folder), "one", **arguments)
    two, one = [json.loads((folder / f"{name}.json").read_text()) for name in ("two", "one")]
    assert (two["world_size"], one["world_size"]) == (2, 1)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-4)
    names = ("reward", "kl", "entropy", "hits/share_of_groups", "completions/invalid", "frac_reward_zero_std")
    for ours, theirs in zip(two["train"], one["train"], strict=True):
        assert {name: ours[name] for name in names} == pytest.approx({name: theirs[name] for name in names}, abs=1e-4)
    figures = {key: value for key, value in two["metrics"].items() if "@" in key}
    assert len(figures) == 16
    assert figures == pytest.approx({key: one["metrics"][key] for key in figures}, abs=1e-6)
