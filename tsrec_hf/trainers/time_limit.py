"""Training within a given time, whatever the speed of the machine."""

import time

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from tsrec_hf.models.checking_tsrec import checks_types


class TimeLimitCallback(TrainerCallback):
    r"""
    Ends training after a given wall time.

    The learning rate schedule does not know of the limit: it stays that of `max_steps` or `num_train_epochs`. What the
    time decides is its end, a cooldown: with a constant schedule, warm-up, plateau and cooldown follow each other on a
    machine of any speed. With several processes the first one's clock decides, so that all end after the same step.

    Args:
        seconds (`float`):
            Time from the start of training; training ends with the step in which it passes. With 0 or less, that is
            the first one.
        cooldown (`float`, *optional*, defaults to `0.0`):
            Share of the time, at its end, in which the scheduled learning rate is lowered linearly to 0.

    Raises:
        `ValueError`: a share outside of 0 to 1.

    Example:

    ```python
    >>> from transformers import TrainerControl, TrainerState
    >>> from tsrec_hf.trainers import TimeLimitCallback

    >>> limit = TimeLimitCallback(seconds=0)  # trainer = TSRecSFTTrainer(..., callbacks=[limit])
    >>> state, control = TrainerState(), TrainerControl()
    >>> control = limit.on_train_begin(None, state, control)
    >>> limit.on_step_end(None, state, TrainerControl()).should_training_stop
    True
    ```
    """

    @checks_types
    def __init__(self, seconds: float, cooldown: float = 0.0) -> None:
        if not 0 <= cooldown <= 1:
            raise ValueError(f"Expected `cooldown` as a share of the time, from 0 to 1, but found {cooldown}.")
        self.seconds, self.cooldown = seconds, cooldown
        self._deadline = float("inf")

    def on_train_begin(self, args, state, control, **kwargs):
        self._deadline = time.monotonic() + self.seconds
        return control

    def on_step_end(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        [left] = broadcast_object_list([self._deadline - time.monotonic()])
        control.should_training_stop |= left <= 0
        if self.cooldown and optimizer is not None and lr_scheduler is not None:
            factor = min(1.0, max(0.0, left) / (self.cooldown * self.seconds)) if self.seconds > 0 else 0.0
            for group, scheduled in zip(optimizer.param_groups, lr_scheduler.get_last_lr(), strict=True):
                group["lr"] = scheduled * factor
        return control
