"""Training that ends when its time is up."""

import time

import pytest
from transformers import TrainerControl, TrainerState

from tsrec_hf import TSRecSFTConfig, TSRecSFTTrainer, build_sequence_rows
from tsrec_hf.trainers import TimeLimitCallback, time_limit


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 1), (-5.0, 1), (1000.0, 4)])
def test_training_ends_with_the_step_in_which_time_is_up(model, tokenizer, dataset, tmp_path, seconds, steps) -> None:
    args = TSRecSFTConfig(
        str(tmp_path), max_steps=4, save_strategy="no", report_to="none", bf16=False, use_cpu=True, disable_tqdm=True
    )
    rows = build_sequence_rows(dataset.train, tokenizer)
    trainer = TSRecSFTTrainer(
        model, args, train_dataset=rows, processing_class=tokenizer, callbacks=[TimeLimitCallback(seconds)]
    )
    trainer.train()
    assert trainer.state.global_step == steps


def test_time_counts_from_the_start_of_training(monkeypatch) -> None:
    clock = iter([100.0, 104.9, 105.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    limit, state = TimeLimitCallback(5.0), TrainerState()
    limit.on_train_begin(None, state, TrainerControl())
    assert [limit.on_step_end(None, state, TrainerControl()).should_training_stop for _ in range(2)] == [False, True]


def test_the_first_process_decides(monkeypatch) -> None:
    # What another process said takes the place of what this one would do.
    monkeypatch.setattr(time_limit, "broadcast_object_list", lambda flags: [not flags[0]])
    limit, state = TimeLimitCallback(1000.0), TrainerState()
    limit.on_train_begin(None, state, TrainerControl())
    assert limit.on_step_end(None, state, TrainerControl()).should_training_stop


def test_another_callback_s_stop_stays() -> None:
    limit, state = TimeLimitCallback(1000.0), TrainerState()
    limit.on_train_begin(None, state, TrainerControl())
    assert limit.on_step_end(None, state, TrainerControl(should_training_stop=True)).should_training_stop
