import pytest
from datasets import Dataset

from tsrec_hf.data import build_history_title_rows


def pairs(rows):
    return list(zip(rows["prompt"], rows["completion"]))


def test_history_title_rows_by_hand(dataset, tokenizer):
    rows = build_history_title_rows(dataset.train, dataset.items, tokenizer)
    assert rows.num_rows == 6 and set(rows["task"]) == {"history_title"}
    assert pairs(rows)[4] == (
        "Items chosen in order:<a_0><b_0><c_0><a_0><b_1><c_0><a_0><b_0><c_1> The title of the next:",
        " steel screw</s>",
    )


def test_history_title_rows_keep_the_last_ten_items(dataset, tokenizer):
    rows = Dataset.from_dict({"history": [["apple"] * 4 + ["saw"] * 10], "target": ["pear"]})
    [(prompt, _)] = pairs(build_history_title_rows(rows, dataset.items, tokenizer))
    assert prompt == "Items chosen in order:" + "<a_0><b_0><c_1>" * 10 + " The title of the next:"


def test_items_with_the_same_title_keep_their_rows(dataset, tokenizer):
    items = dataset.items.map(lambda item: {"title": "steel"})
    assert build_history_title_rows(dataset.train, items, tokenizer).num_rows == len(dataset.train)


def test_targets_without_a_title_have_no_rows(tokenizer):
    items = Dataset.from_dict({"item_id": ["nail", "screw", "saw"], "title": ["", " \n", "hand saw"]})
    interactions = Dataset.from_dict({"history": [["apple"], ["apple"]], "target": ["nail", "saw"]})
    assert pairs(build_history_title_rows(interactions, items, tokenizer)) == [
        ("Items chosen in order:<a_1><b_0><c_0> The title of the next:", " hand saw</s>")
    ]


def test_prompts_begin_with_the_start_token_where_the_backbone_adds_one(dataset, make_recommender):
    _, tokenizer = make_recommender(add_bos=True)
    rows = build_history_title_rows(dataset.train, dataset.items, tokenizer)
    assert all(row["prompt"].startswith("<s>") and row["prompt"].count("<s>") == 1 for row in rows)
    assert not any("<s>" in row["completion"] for row in rows)


def test_errors(dataset, tokenizer):
    with pytest.raises(ValueError, match=r"interactions with the columns .* but \['target'\] are missing"):
        build_history_title_rows(dataset.train.remove_columns("target"), dataset.items, tokenizer)
    with pytest.raises(ValueError, match=r"items with the columns .* but \['item_id'\] are missing"):
        build_history_title_rows(dataset.train, dataset.items.remove_columns("item_id"), tokenizer)
    with pytest.raises(KeyError, match="Target 'nail' is not among the 1 items"):
        build_history_title_rows(dataset.train, dataset.items.select([0]), tokenizer)
    empty = Dataset.from_dict({"history": [[]], "target": ["nail"]})
    with pytest.raises(ValueError, match="at least one item, but found an empty one"):
        build_history_title_rows(empty, dataset.items, tokenizer)
