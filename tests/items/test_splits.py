import os
import time
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, Value, concatenate_datasets

from tsrec_hf.items import chronological_split, leave_one_out_split, load_minionerec


INDUSTRIAL = os.environ.get("TSREC_DATA")

# In time order: ann a, bob b, ann c, cid d, ann e, bob f, ann g. A user's first item is no target, which leaves four
# rows: c (after a), e (after a c), f (after b) and g (after a c e).
LOG = {
    "user_id": ["ann", "bob", "ann", "ann", "bob", "cid", "ann"],
    "item_id": ["g", "b", "a", "c", "f", "d", "e"],
    "timestamp": [7, 2, 1, 3, 6, 4, 5],
}


def make_log(**columns):
    return Dataset.from_dict({**LOG, **columns})


def rows_of(split):
    return list(zip(split["user_id"][:], split["history"][:], split["target"][:]))


def test_rows_and_cuts_by_hand():
    splits = chronological_split(make_log(), ratios=(0.5, 0.25, 0.25))
    assert list(splits) == ["train", "valid", "test"]
    assert splits["train"].column_names == ["user_id", "history", "target"]
    assert rows_of(splits["train"]) == [("ann", ["a"], "c"), ("ann", ["a", "c"], "e")]
    assert rows_of(splits["valid"]) == [("bob", ["b"], "f")]
    assert rows_of(splits["test"]) == [("ann", ["a", "c", "e"], "g")]


def test_histories_keep_the_last_items():
    splits = chronological_split(make_log(), ratios=(0.5, 0.25, 0.25), max_history=2)
    assert rows_of(splits["test"]) == [("ann", ["c", "e"], "g")]


def test_ties_keep_the_order_of_the_log():
    splits = chronological_split(make_log(timestamp=[1.5] * 7), ratios=(1.0, 0.0, 0.0))
    assert rows_of(splits["train"]) == [
        ("ann", ["g"], "a"),
        ("ann", ["g", "a"], "c"),
        ("bob", ["b"], "f"),
        ("ann", ["g", "a", "c"], "e"),
    ]
    assert splits.num_rows == {"train": 4, "valid": 0, "test": 0}


def test_a_selection_of_a_log_is_a_log():
    splits = chronological_split(make_log().select([3, 2, 5]), ratios=(1.0, 0.0, 0.0))
    assert rows_of(splits["train"]) == [("ann", ["a"], "c")]


@pytest.mark.parametrize(
    ("ratios", "counts"),
    [
        # As floats, 10 * (0.7 + 0.1) is 7.999...; the validation rows would be 0.
        ((0.7, 0.1, 0.2), (7, 1, 2)),
        ((0.8, 0.1, 0.1), (8, 1, 1)),
        ((0.6, 0.3, 0.1), (6, 3, 1)),
        ((1 / 3, 1 / 3, 1 / 3), (3, 3, 4)),
        ((0.9, 0.0, 0.1), (9, 0, 1)),
    ],
)
def test_cuts_are_those_of_exact_arithmetic(ratios, counts):
    log = Dataset.from_dict({"user_id": ["ann"] * 11, "item_id": list("abcdefghijk"), "timestamp": list(range(11))})
    assert tuple(chronological_split(log, ratios).num_rows.values()) == counts


def test_dates_are_timestamps():
    dates = make_log().cast_column("timestamp", Value("timestamp[s]"))
    expected = chronological_split(make_log())
    assert {name: rows_of(split) for name, split in chronological_split(dates).items()} == {
        name: rows_of(split) for name, split in expected.items()
    }


@pytest.mark.parametrize("ratios", [(0.8, 0.2), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5), (80, 10, 10)])
def test_ratios_are_three_shares(ratios):
    with pytest.raises(ValueError, match="three ratios .* sum to 1, but found"):
        chronological_split(make_log(), ratios)


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_a_missing_column_is_named(column):
    with pytest.raises(ValueError, match=rf"\['{column}'\] are missing from .*Rename"):
        chronological_split(make_log().remove_columns(column))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1] * 7}, "'user_id' of `interactions` to be a string, but found int64.*cast_column"),
        ({"item_id": [1] * 7}, "'item_id' of `interactions` to be a string, but found int64.*cast_column"),
        ({"timestamp": ["1"] * 7}, "'timestamp' of `interactions` to hold numbers or dates, but found string"),
    ],
)
def test_columns_of_the_wrong_type(columns, message):
    with pytest.raises(TypeError, match=message):
        chronological_split(make_log(**columns))


@pytest.mark.parametrize(
    "columns",
    [
        {"timestamp": [1, 2, 3, 4, 5, 6, None]},
        {"timestamp": [1.0, 2, 3, 4, 5, 6, float("nan")]},
        {"item_id": [None, *"abcdef"]},
        {"user_id": [None, *"abcdef"]},
    ],
)
def test_missing_values_are_refused(columns):
    with pytest.raises(
        ValueError, match=f"{next(iter(columns))!r} of `interactions` without missing values, but found 1"
    ):
        chronological_split(make_log(**columns))


def test_every_user_with_one_interaction_leaves_nothing_to_predict():
    with pytest.raises(ValueError, match="none of the 7 users has more than one"):
        chronological_split(make_log(user_id=list("abcdefg")))


def test_max_history_is_positive():
    with pytest.raises(ValueError, match="`max_history` of at least 1, but found 0"):
        chronological_split(make_log(), max_history=0)


def test_against_a_plain_loop():
    generator = np.random.default_rng(0)
    size = 500
    users = [f"u{number}" for number in generator.integers(0, 40, size)]
    items = [f"i{number}" for number in generator.integers(0, 30, size)]
    times = generator.integers(0, 100, size).tolist()
    past, expected = {}, []
    for row in sorted(range(size), key=lambda row: times[row]):
        history = past.setdefault(users[row], [])
        if history:
            expected.append((users[row], history[-3:], items[row]))
        history.append(items[row])
    log = Dataset.from_dict({"user_id": users, "item_id": items, "timestamp": times})
    splits = chronological_split(log, max_history=3)
    assert [row for split in splits.values() for row in rows_of(split)] == expected
    first, second = int(len(expected) * 0.8), int(len(expected) * 0.9)
    assert rows_of(splits["valid"]) == expected[first:second]


@pytest.mark.skipif(not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific")
def test_reproduces_the_published_splits_from_their_log():
    dataset = load_minionerec(INDUSTRIAL)
    published = [dataset.train, dataset.valid, dataset.test]
    rows = concatenate_datasets(published)
    # The log: targets at the time of their row, after the first items of all users, which are never targets.
    first_items = {}
    for user, history in zip(rows["user_id"][:], rows["history"][:]):
        first_items.setdefault(user, history[0])
    log = Dataset.from_dict(
        {
            "user_id": [*first_items, *rows["user_id"][:]],
            "item_id": [*first_items.values(), *rows["target"][:]],
            "timestamp": [-1] * len(first_items) + list(range(len(rows))),
        }
    )
    splits = chronological_split(log)
    assert splits.num_rows == {"train": 36_259, "valid": 4_532, "test": 4_533}
    for split, expected in zip(splits.values(), published):
        assert rows_of(split) == rows_of(expected)


@pytest.mark.slow
def test_a_million_interactions_are_split_in_seconds():
    generator = np.random.default_rng(0)
    size = 1_000_000
    log = Dataset.from_dict(
        {
            "user_id": generator.integers(0, 100_000, size).astype(str),
            "item_id": generator.integers(0, 50_000, size).astype(str),
            "timestamp": generator.random(size),
        }
    )
    start = time.perf_counter()
    splits = chronological_split(log)
    assert time.perf_counter() - start < 20
    assert sum(splits.num_rows.values()) > 890_000


def test_leave_one_out_by_hand():
    # ann took a c e g, bob b f, cid d: bob has too few for a test.
    splits = leave_one_out_split(make_log())
    assert list(splits) == ["train", "valid", "test"]
    assert rows_of(splits["train"]) == [("ann", ["a"], "c"), ("bob", ["b"], "f")]
    assert rows_of(splits["valid"]) == [("ann", ["a", "c"], "e")]
    assert rows_of(splits["test"]) == [("ann", ["a", "c", "e"], "g")]


def test_leave_one_out_of_three_interactions_leaves_none_to_train():
    log = Dataset.from_dict({"user_id": ["ann"] * 3, "item_id": list("abc"), "timestamp": [1, 2, 3]})
    splits = leave_one_out_split(log, max_history=1)
    assert splits.num_rows == {"train": 0, "valid": 1, "test": 1}
    assert rows_of(splits["test"]) == [("ann", ["b"], "c")]


def test_leave_one_out_and_chronological_make_the_same_rows():
    generator = np.random.default_rng(1)
    log = Dataset.from_dict(
        {
            "user_id": [f"u{number}" for number in generator.integers(0, 60, 300)],
            "item_id": [f"i{number}" for number in generator.integers(0, 30, 300)],
            "timestamp": generator.integers(0, 100, 300).tolist(),
        }
    )
    by_time, by_user = chronological_split(log), leave_one_out_split(log)
    assert sorted(row for split in by_time.values() for row in rows_of(split)) == sorted(
        row for split in by_user.values() for row in rows_of(split)
    )
    counts = Counter(log["user_id"])
    evaluated = {user for user, count in counts.items() if count >= 3}
    for split in ("valid", "test"):
        assert Counter(by_user[split]["user_id"]) == Counter(evaluated)


def test_leave_one_out_needs_users_with_three_interactions():
    with pytest.raises(ValueError, match="at least three interactions"):
        leave_one_out_split(make_log().select([1, 4, 5]))


def positions(lengths, first=0, keep=lambda row: True):
    """A log in which the time is the position in the user's sequence; `keep` drops rows as a filter would."""
    rows = [(f"u{user}", f"i{at}", float(first + at)) for user, length in enumerate(lengths) for at in range(length)]
    users, items, times = zip(*(row for number, row in enumerate(rows) if keep(number)))
    return Dataset.from_dict({"user_id": users, "item_id": items, "timestamp": times})


def numbered(log):
    """The log with the numbers of its rows for times, as `interaction_columns={"timestamp": None}` gives them."""
    return log.remove_columns("timestamp").add_column("timestamp", [float(row) for row in range(len(log))])


@pytest.mark.parametrize(
    "log",
    [
        positions([5, 7, 12, 5, 6]),
        positions([5, 7, 12, 5, 6], first=1),
        positions([9] * 40, keep=lambda number: number % 4 != 2),
        positions([3, 50]).cast_column("timestamp", Value("int64")),
        numbered(positions([3, 7, 4])),
        numbered(positions([9] * 40, keep=lambda number: number % 4 != 2)),
    ],
    ids=["from 0", "from 1", "with gaps", "integers", "rows sorted by user", "rows with gaps"],
)
def test_positions_are_no_times(log):
    with pytest.raises(ValueError, match="found positions.*Use `leave_one_out_split`.*--split leave_one_out"):
        chronological_split(log)
    assert len(leave_one_out_split(log)["test"]) == len(set(log["user_id"][:]))


def test_times_are_no_positions():
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(50), 6)
    item = [f"i{number}" for number in range(300)]
    for times in (
        generator.integers(0, 365, 300),  # days since the start
        generator.permutation(300),  # numbers of rows, users in turn
        np.repeat(generator.integers(0, 9, 50), 6) + np.tile(np.arange(6), 50),  # users join over time
        generator.integers(0, 2, 300),  # before and after
        generator.random(300),
        generator.integers(1.2e9, 1.5e9, 300),
    ):
        log = Dataset.from_dict({"user_id": list(map(str, users)), "item_id": item, "timestamp": times.tolist()})
        chronological_split(log)
    # One user's positions are an order in time.
    chronological_split(positions([12]))
    # So are the seconds of users who came one after the other.
    chronological_split(numbered(positions([3, 7])).map(lambda row: {"timestamp": 1e9 + 60 * row["timestamp"]}))
