import numpy as np
import pytest
from datasets import Dataset

from tsrec_hf.items import InteractionLog, k_core


def make_log(pairs, num_items=None):
    users, items = zip(*pairs)
    ids = [str(item) for item in range(num_items or max(items) + 1)]
    return InteractionLog(
        Dataset.from_dict({"item_id": ids, "title": ids, "description": ids}),
        Dataset.from_dict(
            {
                "user_id": [f"u{user}" for user in users],
                "item_id": [str(item) for item in items],
                "timestamp": np.arange(len(pairs), dtype=float),
            }
        ),
    )


def pairs_of(log):
    return list(zip(log.interactions["user_id"][:], log.interactions["item_id"][:]))


def test_dropping_goes_on_until_nothing_is_rare():
    # A square of two users and two items, and a tail: u3 alone took item 2, u2 is rare without it, then u4 and so on.
    square = [(0, 0), (0, 1), (1, 0), (1, 1)]
    log = k_core(make_log([*square, (2, 1), (2, 2), (3, 2), (3, 3), (4, 3)]), user_k=2, item_k=2)
    assert pairs_of(log) == [("u0", "0"), ("u0", "1"), ("u1", "0"), ("u1", "1")]
    assert log.items["item_id"][:] == ["0", "1"]
    assert log.summary.stages[-1][1:] == (2, 2, 4)


def test_against_a_plain_loop():
    generator = np.random.default_rng(0)
    pairs = [tuple(map(int, pair)) for pair in (generator.random((600, 2)) ** 2 * 60).astype(int)]
    log = k_core(make_log(pairs, 60), user_k=5, item_k=4)
    rows = list(range(len(pairs)))
    while True:
        users, items = ([pairs[row][side] for row in rows] for side in (0, 1))
        kept = [r for r in rows if users.count(pairs[r][0]) >= 5 and items.count(pairs[r][1]) >= 4]
        if kept == rows:
            break
        rows = kept
    assert 0 < len(rows) < 600
    assert log.interactions["timestamp"][:] == [float(row) for row in rows]
    assert {int(item) for item in log.items["item_id"]} == {pairs[row][1] for row in rows}


def test_small_k():
    log = make_log([(0, 0), (1, 1)], num_items=4)
    assert len(k_core(log, user_k=1, item_k=1).items) == 2
    assert len(k_core(log, user_k=0, item_k=0).items) == 4
    with pytest.raises(ValueError, match="`item_k` of at least 0, but found -1"):
        k_core(log, item_k=-1)


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match=r"k-core \(5 a user, 5 an item\) \| 0 \(-2\) \| 0 \(-2\) \| 0 \(-2\)"):
        k_core(make_log([(0, 0), (1, 1)]))


def test_unknown_items_are_an_error():
    log = make_log([(0, 0), (1, 1)])
    with pytest.raises(ValueError, match="1 interactions name another. Use `tidy"):
        k_core(InteractionLog(log.items.select([0]), log.interactions))
