"""Settings sized to the data."""

import numpy as np
import pytest

from tsrec_hf.recipes.sizing import history_length_for, level_sizes_for, plan_training


@pytest.mark.parametrize("rows", [1, 30, 250, 2000, 50_000])
def test_every_shop_gets_steps_and_a_warm_up_that_fits(rows: int) -> None:
    plan = plan_training(rows)
    assert plan.warmup_steps <= 0.06 * plan.steps + 1 and 4 <= plan.batch_size <= 32
    # 300 steps wherever batches of 4 rows allow it.
    assert plan.steps >= min(300, 6 * rows // 4)


def test_sids_are_twice_as_many_as_items() -> None:
    for items in (1, 40, 1000, 32_768, 32_769, 10**6):
        sizes = level_sizes_for(items)
        assert np.prod(sizes) >= 2 * items and len(sizes) in (2, 3)


def test_histories_are_neither_shorter_than_five_nor_longer_than_fifty() -> None:
    assert history_length_for(np.array([2, 2, 3])) == 5 and history_length_for(np.full(9, 300)) == 50
