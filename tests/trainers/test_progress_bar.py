"""Training shown as one progress bar."""

import pytest
from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from tsrec_hf import TSRecSFTConfig, TSRecSFTTrainer, build_sequence_rows
from tsrec_hf.trainers import ProgressBarCallback, TimeLimitCallback


@pytest.mark.parametrize("disable_tqdm", [True, False])
@pytest.mark.parametrize("seconds", [None, 1000.0])
def test_nothing_is_printed_but_the_bar(model, tokenizer, dataset, tmp_path, capsys, disable_tqdm, seconds) -> None:
    settings = {"save_strategy": "no", "report_to": "none", "bf16": False, "use_cpu": True, "logging_steps": 1}
    args = TSRecSFTConfig(str(tmp_path), max_steps=3, disable_tqdm=disable_tqdm, **settings)
    rows = build_sequence_rows(dataset.train, tokenizer)
    trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    capsys.readouterr()
    ProgressBarCallback(seconds).replace_in(trainer)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert kinds.count(ProgressBarCallback) == 1 and not {PrinterCallback, ProgressCallback} & set(kinds)
    trainer.train()
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.replace("\r", "\n").strip().splitlines()[-1]
    assert "Training" in last and "step=3, loss=" in last
    assert ("3/3" in last) if seconds is None else (" of 1000 s" in last)


def test_the_bar_is_full_where_time_is_up(model, tokenizer, dataset, tmp_path, capsys) -> None:
    args = TSRecSFTConfig(str(tmp_path), max_steps=3, save_strategy="no", report_to="none", bf16=False, use_cpu=True)
    rows = build_sequence_rows(dataset.train, tokenizer)
    limit = TimeLimitCallback(1e-9)
    trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, callbacks=[limit])
    ProgressBarCallback(limit.seconds).replace_in(trainer)
    trainer.train()
    assert "100%" in capsys.readouterr().err


def test_a_window_without_rewards_shows_the_loss(capsys) -> None:
    bar, args, control = ProgressBarCallback(), TrainingArguments(report_to="none", use_cpu=True), TrainerControl()
    state = TrainerState(max_steps=2, is_world_process_zero=True)
    bar.on_train_begin(args, state, control)
    bar.on_log(args, state, control, logs={"loss": 0.5, "reward": None})
    bar.on_step_end(args, state, control)
    bar.on_train_end(args, state, control)
    shown = capsys.readouterr().err
    assert "loss=0.500" in shown and "reward" not in shown
