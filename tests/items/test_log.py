import pytest
from datasets import Dataset

from tsrec_hf.items import InteractionLog, chronological_split, leave_one_out_split


ITEMS = {"item_id": ["1", "2"], "title": ["Nut", "Bolt"], "description": ["", ""]}
INTERACTIONS = {"user_id": ["a"] * 4, "item_id": ["1", "2", "1", "2"], "timestamp": [1.0, 2.0, 3.0, 4.0]}


@pytest.fixture
def log():
    return InteractionLog(Dataset.from_dict(ITEMS), Dataset.from_dict(INTERACTIONS))


def test_unpacks_and_counts(log):
    items, interactions = log
    assert items is log.items and interactions is log.interactions
    assert repr(log) == "InteractionLog(items=2, users=1, interactions=4)"
    assert log.summary.stages == (("given", 2, 1, 4),)


def test_both_splits_make_a_recommendation_dataset(log):
    dataset = log.split(ratios=(0.4, 0.3, 0.3), max_history=1, name="toy")
    expected = chronological_split(log.interactions, ratios=(0.4, 0.3, 0.3), max_history=1)
    assert dataset.name == "toy" and dataset.items is log.items and dataset.max_history == 1
    assert [dataset.train[:], dataset.valid[:], dataset.test[:]] == [split[:] for split in expected.values()]
    dataset = log.split(leave_one_out_split)
    assert dataset.max_history == 10
    assert log.split(lambda interactions: leave_one_out_split(interactions)).max_history is None
    assert dataset.test[:] == {"user_id": ["a"], "history": [["1", "2", "1"]], "target": ["2"]}


@pytest.mark.parametrize(
    ("items", "interactions", "error", "message"),
    [
        (
            ITEMS,
            {**INTERACTIONS, "user_id": [1] * 4},
            TypeError,
            "'user_id' of `interactions` to hold strings, .*int64",
        ),
        (
            ITEMS,
            {**INTERACTIONS, "timestamp": ["x"] * 4},
            TypeError,
            "'timestamp' .* to hold numbers, but found string",
        ),
        ({**ITEMS, "title": [1, 2]}, INTERACTIONS, TypeError, "'title' of `items` to hold strings"),
        ({"item_id": ["1"], "title": [""]}, INTERACTIONS, ValueError, r"\['description'\] are missing from .*item_id"),
        (ITEMS, {"user_id": ["a"]}, ValueError, r"\['item_id', 'timestamp'\] are missing .*load_table"),
    ],
)
def test_wrong_columns_are_named(items, interactions, error, message):
    with pytest.raises(error, match=message):
        InteractionLog(Dataset.from_dict(items), Dataset.from_dict(interactions))


def test_tables_are_datasets():
    with pytest.raises(TypeError, match="`items` to be a `datasets.Dataset`, but found `dict`"):
        InteractionLog(ITEMS, Dataset.from_dict(INTERACTIONS))


def test_a_selection_is_what_it_selects(log):
    selected = InteractionLog(log.items, log.interactions.select([3, 0]))
    assert selected.tables()[1]["timestamp"].to_pylist() == [4.0, 1.0]
    assert selected.summary.stages[0].interactions == 2
