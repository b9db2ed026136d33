"""Rows of many interactions: read a piece at a time, written to disk, equal to those made in memory."""

import random

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from tsrec_hf.data import SequenceTask, build_history_title_rows, build_sequence_rows, build_sft_mixture
from tsrec_hf.data import interactions as module
from tsrec_hf.data.interactions import InteractionReader
from tsrec_hf.models import SIDIndex, TSRecTokenizer


pytestmark = pytest.mark.usefixtures("datasets_cache")
INDEX = SIDIndex([f"i{n}" for n in range(60)], [[n // 16, n // 4 % 4, n % 4] for n in range(60)])
ITEMS = Dataset.from_dict({"item_id": INDEX.item_ids, "title": ["steel nail", "hand saw", "red apple"] * 20})


@pytest.fixture
def tokenizer(backbone_dir):
    return TSRecTokenizer.from_backbone(backbone_dir, INDEX, max_history=4)


@pytest.fixture
def in_pieces(monkeypatch):
    """Everything counts as large, and is read some rows at a time."""
    monkeypatch.setattr(module, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(module, "PIECE_SIZE", 7)


def sequences(num_users=30, seed=0):
    drawn = random.Random(seed)
    return {f"u{n:02}": drawn.choices(INDEX.item_ids, k=drawn.randrange(1, 12)) for n in range(num_users)}


def log_of(items_of):
    rows = [(user, item, float(at)) for user, items in items_of.items() for at, item in enumerate(items)]
    users, items, times = zip(*rows)
    return Dataset.from_dict({"user_id": users, "item_id": items, "timestamp": times})


def next_item_rows(items_of, longest=4):
    rows = [
        (user, items[max(0, at - longest) : at], items[at])
        for user, items in items_of.items()
        for at in range(1, len(items))
    ]
    users, histories, targets = zip(*rows)
    return Dataset.from_dict({"user_id": users, "history": histories, "target": targets})


@pytest.mark.parametrize("mode", ["session", "window"])
def test_a_log_gives_the_rows_of_its_next_item_rows(tokenizer, mode):
    items_of = sequences()
    of_rows = build_sequence_rows(next_item_rows(items_of), tokenizer, mode=mode, targets_per_stretch=3)
    of_log = build_sequence_rows(log_of(items_of), tokenizer, mode=mode, targets_per_stretch=3)
    assert of_log.to_dict() == of_rows.to_dict()


@pytest.mark.parametrize("mode", ["session", "window"])
@pytest.mark.parametrize("form", [log_of, next_item_rows], ids=["log", "rows"])
def test_rows_on_disk_equal_those_in_memory(tokenizer, mode, form, request):
    given = form(sequences())
    small = build_sequence_rows(given, tokenizer, mode=mode)
    request.getfixturevalue("in_pieces")
    large = build_sequence_rows(given, tokenizer, mode=mode)
    assert not small.cache_files and large.cache_files
    assert large.to_dict() == small.to_dict() and large.features == small.features


def test_the_same_arguments_find_the_rows(tokenizer, in_pieces):
    given = log_of(sequences())
    first, again = (build_sequence_rows(given.select(range(len(given))), tokenizer) for _ in range(2))
    assert first.cache_files == again.cache_files
    assert build_sequence_rows(given, tokenizer, targets_per_stretch=2).cache_files != first.cache_files
    assert build_sequence_rows(log_of(sequences(seed=1)), tokenizer).cache_files != first.cache_files


def test_several_processes_make_the_same_rows(tokenizer, in_pieces):
    given = log_of(sequences())
    one = build_sequence_rows(given, tokenizer, targets_per_stretch=1).to_dict()
    two = build_sequence_rows(given, tokenizer, targets_per_stretch=1, num_proc=2)
    assert two.to_dict() == one
    # Not what the cache held: another window of the same log, made by two processes first.
    two = build_sequence_rows(given, tokenizer, targets_per_stretch=4, num_proc=2)
    assert len(two.cache_files) == 2
    assert two.to_dict() == build_sequence_rows(given, tokenizer, targets_per_stretch=4).to_dict()


def test_a_stream_gives_the_rows_of_its_log(tokenizer, in_pieces):
    given = log_of(sequences())
    of_stream = build_sequence_rows(given.to_iterable_dataset(num_shards=3), tokenizer)
    assert of_stream.to_dict() == build_sequence_rows(given, tokenizer).to_dict()


def test_pieces_end_where_users_end(in_pieces):
    given = log_of(sequences())
    pieces = InteractionReader(given, longest=4).pieces()
    users = np.array(given["user_id"][:])
    assert len(pieces) > 5 and pieces[0][0] == 0 and pieces[-1][1] == len(given)
    for (_, stop), (start, _) in zip(pieces, pieces[1:]):
        assert stop == start and users[start - 1] != users[start]


def test_users_need_no_order_among_each_other(tokenizer, in_pieces):
    items_of = sequences()
    users = list(items_of)
    random.Random(0).shuffle(users)
    rows = build_sequence_rows(log_of({user: items_of[user] for user in users}), tokenizer)
    assert len(rows) == len(build_sequence_rows(log_of(items_of), tokenizer))


def test_alternating_users_are_chained_as_a_whole(tokenizer, in_pieces):
    rows = next_item_rows(sequences())
    order = np.random.default_rng(0).permutation(len(rows))
    order = sorted(order.tolist(), key=lambda row: len(rows[row]["history"]))
    mixed = rows.select(order)
    assert InteractionReader(mixed, longest=4).pieces() == [(0, len(mixed))]


@pytest.mark.parametrize("as_stream", [False, True])
def test_logs_out_of_order_are_refused(tokenizer, in_pieces, as_stream):
    def build(users, times=None):
        log = Dataset.from_dict(
            {"user_id": users, "item_id": ["i1"] * len(users), "timestamp": times or [0.0] * len(users)}
        )
        return build_sequence_rows(log.to_iterable_dataset() if as_stream else log, tokenizer)

    with pytest.raises(ValueError, match="rows of each user stand together.* Sort"):
        build(["a", "a", "b", "b", "a"])
    with pytest.raises(ValueError, match=r"user 'b' has time 1.0 behind 2.0. Sort it"):
        build(["a", "a", "b", "b"], [5.0, 6.0, 2.0, 1.0])


def test_missing_columns_and_items(tokenizer, in_pieces):
    with pytest.raises(ValueError, match=r"columns \['user_id', 'item_id'\], but \['item_id'\] are missing"):
        build_sequence_rows(Dataset.from_dict({"user_id": ["a"], "sku": ["i1"]}), tokenizer)
    stream = IterableDataset.from_generator(lambda: iter([{"user_id": "a", "sku": "i1"}]))
    with pytest.raises(ValueError, match=r"\['item_id'\] are missing"):
        build_sequence_rows(stream, tokenizer)
    log = Dataset.from_dict({"user_id": ["a", "a"], "item_id": ["i1", "i99"]})
    with pytest.raises(KeyError, match="Item 'i99' is not among"):
        build_sequence_rows(log, tokenizer)


def test_titles_of_a_log(tokenizer, request):
    items_of = sequences()
    small = build_history_title_rows(next_item_rows(items_of), ITEMS, tokenizer)
    assert build_history_title_rows(log_of(items_of), ITEMS, tokenizer).to_dict() == small.to_dict()
    request.getfixturevalue("in_pieces")
    assert build_history_title_rows(log_of(items_of), ITEMS, tokenizer).to_dict() == small.to_dict()
    assert build_history_title_rows(log_of(items_of), ITEMS, tokenizer, num_proc=2).to_dict() == small.to_dict()


def test_a_mixture_of_a_log(dataset, semantics, backbone_dir, in_pieces):
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index)
    log = Dataset.from_dict(
        {
            "user_id": ["ann"] * 4 + ["bob"] * 3 + ["cid"] * 2,
            "item_id": ["hammer", "nail", "saw", "screw", "apple", "pear", "bread", "bread", "hammer"],
        }
    )
    rows = build_sft_mixture(dataset, semantics, tokenizer, log=log)
    # `dataset.train` is the same interactions, in the order of time.
    of_split = build_sft_mixture(dataset, semantics, tokenizer)
    for task in ("sequence", "history_title", "title", "alignment"):
        one, other = (sorted(row["input_ids"] for row in each if row["task"] == task) for each in (rows, of_split))
        assert one == other
    task = SequenceTask(interactions=log)
    own = build_sft_mixture(dataset, None, tokenizer, tasks=[task])
    assert sorted(own["input_ids"]) == sorted(build_sequence_rows(log, tokenizer)["input_ids"])
    with pytest.raises(ValueError, match="Expected `log` with a row for each interaction"):
        build_sft_mixture(dataset, semantics, tokenizer, log=dataset.train)
