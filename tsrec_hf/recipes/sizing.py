"""Settings sized to the data: a small shop gets as many steps as it can use, a large one trains within its time."""

import math
from dataclasses import dataclass

import numpy as np


# Passes over the rows beyond which a model learns them by heart, and steps below which it has learned nothing.
MOST_PASSES, LEAST_STEPS = 6, 300
LARGEST_BATCH, SMALLEST_BATCH = 32, 4
WARMUP_SHARE = 0.05


def level_sizes_for(num_items: int) -> list[int]:
    """
    Codes of each level: two levels, as few codes as give twice as many SIDs as items, and three where two would need
    more than 256.

    Example:

    ```python
    >>> from tsrec_hf.recipes.sizing import level_sizes_for

    >>> level_sizes_for(100), level_sizes_for(1682), level_sizes_for(1_000_000)
    ([16, 16], [64, 64], [128, 128, 128])
    ```
    """
    for levels in (2, 3):
        size = 4
        while size**levels < 2 * num_items:
            size *= 2
        if size <= 256:
            return [size] * levels
    return [size] * 3


def history_length_for(items_per_user: np.ndarray) -> int:
    """
    Longest history of a row: what three quarters of the users took, from 5 to 50.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.recipes.sizing import history_length_for

    >>> history_length_for(np.array([2, 3, 8, 12, 200]))
    12
    ```
    """
    return int(np.clip(np.quantile(items_per_user, 0.75), 5, 50))


@dataclass(frozen=True)
class TrainingPlan:
    """
    How to train on so many rows.

    Attributes:
        batch_size (`int`): Rows a step.
        passes (`int`): Passes over the rows.
        steps (`int`): Steps in all.
        warmup_steps (`int`): Those in which the learning rate rises.
    """

    batch_size: int
    passes: int
    steps: int
    warmup_steps: int


def plan_training(num_rows: int) -> TrainingPlan:
    """
    Plans training: batches so small that there are 300 steps, or of 4 rows, in at most 6 passes.

    Example:

    ```python
    >>> from tsrec_hf.recipes.sizing import plan_training

    >>> plan_training(250)
    TrainingPlan(batch_size=4, passes=6, steps=378, warmup_steps=19)
    >>> plan_training(100_000).batch_size
    32
    ```
    """
    batch_size = SMALLEST_BATCH
    while batch_size < LARGEST_BATCH and num_rows * MOST_PASSES // (2 * batch_size) >= LEAST_STEPS:
        batch_size *= 2
    steps = math.ceil(num_rows / batch_size) * MOST_PASSES
    return TrainingPlan(batch_size, MOST_PASSES, steps, math.ceil(WARMUP_SHARE * steps))
