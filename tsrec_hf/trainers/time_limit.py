"""Training within a given time, whatever the speed of the machine."""

import time

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback


class TimeLimitCallback(TrainerCallback):
    r"""
    Ends training after a given wall time.

    The learning rate schedule does not know of the limit: it stays that of `max_steps` or `num_train_epochs`. With
    several processes the first one's clock decides, so that all end after the same step.

    Args:
        seconds (`float`):
            Time from the start of training; training ends with the step in which it passes. With 0 or less, that is
            the first one.

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

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline = float("inf")

    def on_train_begin(self, args, state, control, **kwargs):
        self._deadline = time.monotonic() + self.seconds
        return control

    def on_step_end(self, args, state, control, **kwargs):
        [is_over] = broadcast_object_list([time.monotonic() >= self._deadline])
        control.should_training_stop |= is_over
        return control
