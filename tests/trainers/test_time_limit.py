"""Training that ends when its time is up."""

import time

import pytest
import torch
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
    monkeypatch.setattr(time_limit, "broadcast_object_list", lambda left: [-left[0]])
    limit, state = TimeLimitCallback(1000.0), TrainerState()
    limit.on_train_begin(None, state, TrainerControl())
    assert limit.on_step_end(None, state, TrainerControl()).should_training_stop


def test_another_callback_s_stop_stays() -> None:
    limit, state = TimeLimitCallback(1000.0), TrainerState()
    limit.on_train_begin(None, state, TrainerControl())
    assert limit.on_step_end(None, state, TrainerControl(should_training_stop=True)).should_training_stop


def test_the_learning_rate_falls_to_0_in_the_last_part_of_the_time(monkeypatch) -> None:
    clock = iter([100.0, 104.0, 108.0, 111.0])  # start, and 4, 8 and 11 of 10 seconds
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    limit, state, rates = TimeLimitCallback(10.0, cooldown=0.4), TrainerState(), []
    limit.on_train_begin(None, state, TrainerControl())
    for _ in range(3):
        optimizer.step()
        schedule.step()
        limit.on_step_end(None, state, TrainerControl(), optimizer=optimizer, lr_scheduler=schedule)
        rates.append(optimizer.param_groups[0]["lr"])
    # 6 seconds are left, then 2 of the last 4, then none.
    assert rates == pytest.approx([0.5, 0.25, 0.0])


def test_a_cooldown_in_training(model, tokenizer, dataset, tmp_path) -> None:
    """With no time at all the first step is the only one; what follows would have no learning rate."""
    args = TSRecSFTConfig(str(tmp_path), max_steps=4, save_strategy="no", report_to="none", bf16=False, use_cpu=True)
    rows = build_sequence_rows(dataset.train, tokenizer)
    limit = TimeLimitCallback(0.0, cooldown=1.0)
    trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, callbacks=[limit])
    trainer.train()
    assert trainer.state.global_step == 1
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.0}


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_cooldown_that_is_no_share(share) -> None:
    with pytest.raises(ValueError, match=f"`cooldown` as a share of the time, from 0 to 1, but found {share}"):
        TimeLimitCallback(1.0, cooldown=share)
