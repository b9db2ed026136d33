"""What a run leaves where `report_to` points, as with any Trainer: here TensorBoard's event files."""

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


event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard: pip install tensorboard"
)
COMMON = {
    "max_steps": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "no",
    "report_to": "tensorboard",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    return tmp_path / "events"


def curves(folder):
    """Steps and values of every curve."""
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_sft(model, tokenizer, dataset, semantics, folder, tmp_path):
    args = TSRecSFTConfig(tmp_path / "run", per_device_train_batch_size=64, eval_num_beams=8, **COMMON)
    trainer = TSRecSFTTrainer(
        model,
        args,
        train_dataset=build_sft_mixture(dataset, semantics, tokenizer),
        eval_dataset=build_sft_mixture(dataset, semantics, tokenizer, tasks=["sequence"], split="valid"),
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
    )
    trainer.train()
    found = curves(folder)
    for task in ("sequence", "title", "history_title", "alignment"):
        assert [step for step, _ in found[f"train/loss/{task}"]] == [1, 2]
    assert [step for step, _ in found["train/loss"]] == [1, 2]
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    for name in ("loss", "hr@10", "ndcg@10", "sid_ndcg@10", "loss/sequence"):
        assert found[f"eval/{name}"] == [(2, pytest.approx(logged[f"eval_{name}"]))]
    # The settings of the run stand beside them.
    assert any("eval_num_beams" in path.read_bytes().decode(errors="ignore") for path in folder.rglob("events.*"))


def test_grpo(model, tokenizer, dataset, folder, tmp_path):
    args = TSRecGRPOConfig(
        tmp_path / "run",
        num_generations=4,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        eval_num_beams=8,
        **COMMON,
    )
    trainer = TSRecGRPOTrainer(
        model,
        exact_match_reward,
        args,
        train_dataset=build_grpo_rows(dataset.train, tokenizer),
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
    )
    trainer.train()
    found = curves(folder)
    for name in ("reward", "rewards/exact_match_reward/mean", "loss"):
        assert [step for step, _ in found[f"train/{name}"]] == [1, 2]
    assert [step for step, _ in found["eval/ndcg@10"]] == [step for step, _ in found["eval/reward"]] == [2]
