"""What a run leaves in Trackio, on this machine and without a network: losses by task, HR and NDCG, rewards."""

import tempfile
from pathlib import Path

import pytest

from tsrec_hf import (
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    build_grpo_rows,
    build_sft_mixture,
    exact_match_reward,
)


# Trackio reads its folder when it is imported.
FOLDER = Path(tempfile.mkdtemp(prefix="trackio-"))
with pytest.MonkeyPatch.context() as patched:
    patched.setenv("TRACKIO_DIR", str(FOLDER))
    pytest.importorskip("trackio", reason="needs Trackio: pip install trackio")
from trackio.sqlite_storage import SQLiteStorage  # noqa: E402


COMMON = {
    "max_steps": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_num_beams": 8,
    "save_strategy": "no",
    "report_to": "trackio",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}


def curves(project: str) -> dict[str, list]:
    """Values of every curve of a project's one run."""
    [run] = SQLiteStorage.get_runs(project)
    found: dict[str, list] = {}
    for entry in SQLiteStorage.get_logs(project, run):
        for name, value in entry.items():
            found.setdefault(name, []).append(value)
    return found


def test_sft(model, tokenizer, dataset, semantics, tmp_path) -> None:
    args = TSRecSFTConfig(tmp_path / "sft", per_device_train_batch_size=64, project="sft", run_name="tiny", **COMMON)
    trainer = TSRecSFTTrainer(
        model,
        args,
        train_dataset=build_sft_mixture(dataset, semantics, tokenizer),
        eval_dataset=build_sft_mixture(dataset, semantics, tokenizer, tasks=["sequence"], split="valid"),
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
    )
    trainer.train()
    found = curves("sft")
    for task in ("sequence", "title", "history_title", "alignment"):
        assert len(found[f"train/loss/{task}"]) == 2
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    for name in ("loss", "hr@10", "ndcg@10", "sid_ndcg@10", "loss/sequence"):
        assert found[f"eval/{name}"] == [pytest.approx(logged[f"eval_{name}"])]


def test_grpo(model, tokenizer, dataset, tmp_path) -> None:
    batches = {"num_generations": 4, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    args = TSRecGRPOConfig(tmp_path / "grpo", project="grpo", run_name="tiny", **batches, **COMMON)
    trainer = TSRecGRPOTrainer(
        model,
        exact_match_reward,
        args,
        train_dataset=build_grpo_rows(dataset.train, tokenizer),
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
    )
    trainer.train()
    found = curves("grpo")
    assert len(found["train/reward"]) == len(found["train/rewards/exact_match_reward/mean"]) == 2
    assert len(found["eval/ndcg@10"]) == len(found["eval/reward"]) == 1
