import time

import pytest
from datasets import Dataset, Features, List, Value

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import SIDIndex


ROWS = {"user_id": ["ann", "bob"], "history": [["1"], ["1", "2"]], "target": ["2", "3"]}


def make_items(**columns):
    return Dataset.from_dict({"item_id": ["1", "2", "3"], "title": ["nut", "bolt", "saw"], **columns})


def make_rows(**columns):
    return Dataset.from_dict({**ROWS, **columns})


def build(items=None, sid_index=None, **splits):
    splits = {split: make_rows() for split in ("train", "valid", "test")} | splits
    return RecommendationDataset(items=items or make_items(), sid_index=sid_index, **splits)


def test_keeps_what_it_is_given_and_says_what_it_holds():
    index = SIDIndex(["3", "1", "2"], [[0, 0], [0, 1], [1, 0]], counts=[0, 5, 2])
    dataset = build(sid_index=index, test=make_rows().select([1]))
    assert dataset.items["title"][:] == ["nut", "bolt", "saw"]
    assert dataset.sid_index is index
    assert "items=3, train=2, valid=2, test=1, sid_index=3 items on 2 levels" in repr(dataset)
    with pytest.raises(AttributeError):
        dataset.train = None


@pytest.mark.parametrize("column", ["item_id", "title"])
def test_items_need_their_columns(column):
    with pytest.raises(ValueError, match=rf"`items` to have the columns .*\['{column}'\] are missing"):
        build(items=make_items().remove_columns(column))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("column", ["user_id", "history", "target"])
def test_splits_need_their_columns(split, column):
    with pytest.raises(ValueError, match=rf"`{split}` to have the columns .*\['{column}'\] are missing"):
        build(**{split: make_rows().remove_columns(column)})


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"user_id": [7, 8]}, "'user_id' of `valid` to be a string, but found int64"),
        ({"target": [2, 3]}, "'target' of `valid` to be a string, but found int64"),
        ({"target": [["2"], ["3"]]}, "'target' of `valid` to be a string, but found list"),
        ({"history": ["1", "2"]}, "'history' of `valid` to be a list of strings, but found string"),
        ({"history": [[1], [1, 2]]}, "'history' of `valid` to be a list of strings, but found list<item: int64>"),
    ],
)
def test_ids_are_strings(columns, found):
    with pytest.raises(TypeError, match=found):
        build(valid=make_rows(**columns))


def test_a_split_is_a_datasets_table():
    with pytest.raises(TypeError, match="`test` to be a `datasets.Dataset`, but found `dict`"):
        build(test=ROWS)


@pytest.mark.parametrize("columns", [{"target": ["2", None]}, {"history": [["1"], ["1", None]]}])
def test_missing_values_are_refused(columns):
    with pytest.raises(ValueError, match=f"{next(iter(columns))!r} of `train` without missing values, but found 1"):
        build(train=make_rows(**columns))


def test_item_ids_are_unique():
    with pytest.raises(ValueError, match=r"1 occur more than once, for example '2' \(2 rows\)"):
        build(items=make_items(item_id=["1", "2", "2"]))


def test_an_unknown_item_is_named_with_its_split_row_and_column():
    with pytest.raises(ValueError, match="row 1 of `valid` has '9' in `target`.* 1 entries"):
        build(valid=make_rows(target=["2", "9"]))
    # Entries of the histories: 1 | 1, 8, 9. The first unknown one is in row 1.
    with pytest.raises(ValueError, match="row 1 of `test` has '8' in `history`.* 2 entries"):
        build(test=make_rows(history=[["1"], ["1", "8", "9"]]))


def test_rows_that_a_selection_left_out_are_not_checked():
    rows = make_rows(target=["9", "3"])
    assert len(build(train=rows.select([1])).train) == 1
    with pytest.raises(ValueError, match="row 1 of `train` has '9'"):
        build(train=rows.select([1, 0]))


def test_a_split_may_be_empty():
    features = Features({"user_id": Value("string"), "history": List(Value("string")), "target": Value("string")})
    empty = Dataset.from_dict({name: [] for name in features}, features=features)
    assert len(build(valid=empty).valid) == 0
    assert len(build(valid=Dataset.from_dict({name: [] for name in features})).valid) == 0


def test_large_strings_are_strings_too():
    features = Features(
        {"user_id": Value("large_string"), "history": List(Value("large_string")), "target": Value("large_string")}
    )
    assert len(build(train=make_rows().cast(features)).train) == 2


@pytest.mark.parametrize(
    ("item_ids", "found"),
    [
        (["1", "2"], "1 items have no SID, for example '3'"),
        (["1", "2", "3", "4"], "1 items of the index are not in `items`, for example '4'"),
        (["1", "2", "x"], "have no SID, for example '3' and 1 items of the index .* 'x'"),
    ],
)
def test_the_index_covers_exactly_the_catalogue(item_ids, found):
    with pytest.raises(ValueError, match=found):
        build(sid_index=SIDIndex(item_ids, [[0, number] for number in range(len(item_ids))]))


def test_items_that_share_a_sid_are_ranked_by_training_count(tmp_path):
    train = make_rows(target=["3", "2"]).select([0])
    # Only `train` counts: the targets of `valid` and `test` are 2 and 3.
    dataset = build(sid_index=SIDIndex(["2", "1", "3"], [[0, 0], [0, 1], [0, 0]]), train=train)
    assert dataset.sid_index.counts.tolist() == [0, 0, 1]
    assert dataset.sid_index.items_of("<a_0><b_0>") == ["3", "2"]
    loaded = RecommendationDataset.load(dataset.save(tmp_path / "shop"))
    assert loaded.sid_index.items_of("<a_0><b_0>") == ["3", "2"]
    # Counts that are there are kept.
    index = SIDIndex(["2", "1", "3"], [[0, 0], [0, 1], [0, 0]], counts=[9, 0, 1])
    assert build(sid_index=index, train=train).sid_index.items_of("<a_0><b_0>") == ["2", "3"]


def test_without_training_rows_an_index_stays_without_counts():
    index = SIDIndex(["1", "2", "3"], [[0, 0], [0, 1], [1, 0]])
    assert build(sid_index=index, train=make_rows().select([])).sid_index.counts is None


def test_max_history_is_checked_against_the_rows():
    assert build().max_history is None
    assert RecommendationDataset(make_items(), *[make_rows()] * 3, max_history=2).max_history == 2
    with pytest.raises(ValueError, match="at most `max_history=1` items, but `train` has one of 2"):
        RecommendationDataset(make_items(), *[make_rows()] * 3, max_history=1)
    with pytest.raises(ValueError, match="`max_history` of at least 1, but found 0"):
        RecommendationDataset(make_items(), *[make_rows()] * 3, max_history=0)


@pytest.mark.slow
def test_a_million_rows_are_checked_in_seconds():
    number = 1_000_000
    ids = [str(item) for item in range(50_000)]
    target = ids * (number // len(ids))
    rows = Dataset.from_dict({"user_id": target, "history": [[item, item] for item in target], "target": target})
    items = Dataset.from_dict({"item_id": ids, "title": ids})
    start = time.perf_counter()
    RecommendationDataset(items=items, train=rows, valid=rows, test=rows)
    assert time.perf_counter() - start < 10
