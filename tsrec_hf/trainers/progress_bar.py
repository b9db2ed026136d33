"""Training as one line: a bar that fills with the steps, or with the time, and shows the loss."""

import time
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import has_length


# What the bar shows of a log, and how it is called there.
SHOWN = {"loss": "loss", "reward": "reward", "eval_loss": "eval_loss", "eval_ndcg@10": "ndcg@10"}


class ProgressBarCallback(TrainerCallback):
    r"""
    Shows training as one progress bar with the last loss, reward and NDCG, and nothing else.

    Transformers' own callbacks print a dictionary for every log; [`ProgressBarCallback.replace_in`] puts this one in
    their place. Only the first process shows it.

    Args:
        seconds (`float`, *optional*):
            Time that training may take, as in [`TimeLimitCallback`]: the bar then fills with the time. By default it
            fills with the steps.
        title (`str`, *optional*, defaults to `"Training"`):
            What stands before the bar.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import TSRecSFTConfig, TSRecSFTTrainer, build_sequence_rows
    >>> from tsrec_hf.trainers import ProgressBarCallback

    >>> args = TSRecSFTConfig(tempfile.mkdtemp(), max_steps=1, report_to="none", use_cpu=True, bf16=False)
    >>> rows = build_sequence_rows(dataset.train, tokenizer)
    >>> trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    >>> ProgressBarCallback().replace_in(trainer)
    >>> trainer.train().global_step  # Nothing but the bar, on standard error.
    1
    ```
    """

    def __init__(self, seconds: float | None = None, title: str = "Training") -> None:
        self.seconds, self.title = seconds, title
        self._bar: Any = None
        self._evaluation_bar: Any = None
        self._shown: dict[str, str] = {}
        self._start = 0.0

    def replace_in(self, trainer: Trainer) -> None:
        """Adds this callback to a trainer and removes those of transformers that print."""
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic()
        if not state.is_world_process_zero:
            return
        if self.seconds is None:
            self._bar = tqdm(total=state.max_steps, desc=self.title, unit="step")
        else:
            form = "{l_bar}{bar}| {n:.0f} of {total:.0f} s{postfix}"
            self._bar = tqdm(total=max(self.seconds, 0.0), desc=self.title, bar_format=form)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            done = state.global_step if self.seconds is None else time.monotonic() - self._start
            self._bar.update(min(done, self._bar.total) - self._bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self._bar is not None and logs:
            found = {name: f"{float(logs[key]):.3f}" for key, name in SHOWN.items() if logs.get(key) is not None}
            self._shown |= found
            self._bar.set_postfix({"step": state.global_step, **self._shown}, refresh=False)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not state.is_world_process_zero or not has_length(eval_dataloader):
            return
        if self._evaluation_bar is None:
            # One bar a stage stays: an evaluation beside training leaves its figures on the other bar.
            self._evaluation_bar = tqdm(
                total=len(eval_dataloader), desc="Evaluating", unit="batch", leave=self._bar is None
            )
        self._evaluation_bar.update()

    def on_evaluate(self, args, state, control, **kwargs):
        if self._evaluation_bar is not None:
            self._evaluation_bar.close()
            self._evaluation_bar = None

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.close()
            self._bar = None
