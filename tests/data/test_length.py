import pytest
from datasets import Dataset, concatenate_datasets

from tsrec_hf.data import (
    LengthReport,
    PromptBuilder,
    build_history_title_rows,
    build_sequence_rows,
    build_title_rows,
    drop_oldest_items,
    tokenize_rows,
)


@pytest.fixture
def rows(dataset, tokenizer):
    """ann: 4 items, 3 of them targets; bob: 3 and 2; cid: 2 and 1. The instruction has 5 tokens, an item 3."""
    rows = build_sequence_rows(dataset.train, tokenizer)
    assert [len(ids) for ids in rows["input_ids"]] == [17, 14, 11]
    return rows


def sids(tokenizer, *items):
    return [token_id for sid in tokenizer.encode_sids(items) for token_id in sid]


def test_rows_that_fit_stay_as_they_are(rows, tokenizer):
    same, report = drop_oldest_items(rows, tokenizer, 17)
    assert same is rows and report == LengthReport(rows=0, items=0, targets=0)


@pytest.mark.parametrize("max_length", [14, 15, 16])
def test_the_oldest_whole_item_leaves(rows, tokenizer, max_length):
    short, report = drop_oldest_items(rows, tokenizer, max_length)
    # ann loses the hammer; the nail is first now, with nothing to be predicted from.
    assert report == LengthReport(rows=1, items=1, targets=1)
    instruction = PromptBuilder(tokenizer).instruction_ids
    assert short[0] == {
        "input_ids": instruction + sids(tokenizer, "nail", "saw", "screw"),
        "labels": [-100] * 8 + sids(tokenizer, "saw", "screw"),
        "task": "sequence",
    }
    assert short.select([1, 2]).to_dict() == rows.select([1, 2]).to_dict()


@pytest.mark.parametrize("max_length", [11, 12, 13])
def test_counts_add_up_over_rows(rows, tokenizer, max_length):
    short, report = drop_oldest_items(rows, tokenizer, max_length)
    # ann loses hammer and nail and the targets nail and saw; bob the apple and the target pear.
    assert report == LengthReport(rows=2, items=3, targets=3)
    instruction = PromptBuilder(tokenizer).instruction_ids
    assert short["input_ids"][:] == [
        instruction + sids(tokenizer, *kept) for kept in (["saw", "screw"], ["pear", "bread"], ["bread", "hammer"])
    ]
    assert short["labels"][:] == [[-100] * 8 + sids(tokenizer, kept) for kept in ("screw", "bread", "hammer")]


def test_window_rows_lose_history_and_no_target(dataset, tokenizer):
    rows = build_sequence_rows(dataset.test, tokenizer, mode="window")
    short, report = drop_oldest_items(rows, tokenizer, 14)
    assert report == LengthReport(rows=2, items=2, targets=0)
    instruction = PromptBuilder(tokenizer).instruction_ids
    assert short[0]["input_ids"] == instruction + sids(tokenizer, "pear", "bread", "cheese")
    assert short[0]["labels"] == [-100] * 11 + sids(tokenizer, "cheese")


def test_rows_without_the_column_task(rows, tokenizer):
    short, report = drop_oldest_items(rows.remove_columns("task"), tokenizer, 14)
    assert report.items == 1 and len(short[0]["input_ids"]) == 14


def test_less_than_the_instruction_and_two_items_is_an_error(rows, tokenizer):
    drop_oldest_items(rows, tokenizer, 5 + 2 * 3)
    with pytest.raises(ValueError, match="`max_length` of at least 11, the instruction and two items, but found 10"):
        drop_oldest_items(rows, tokenizer, 10)


def test_rows_of_text_are_never_cut(rows, dataset, tokenizer):
    titles = Dataset.from_list(
        tokenize_rows(build_title_rows(dataset.items, tokenizer), tokenizer), features=rows.features
    )
    both = concatenate_datasets([rows.select([2]), titles])
    assert drop_oldest_items(both, tokenizer, 11)[1].rows == 0
    # A title row that begins like a history is still a title row.
    fake = Dataset.from_list([{**rows[0], "task": "history_title"}], features=rows.features)
    with pytest.raises(ValueError, match="Row 0 of task 'history_title' has 17 tokens, more than `max_length=14`"):
        drop_oldest_items(fake, tokenizer, 14)
    words = Dataset.from_list([{"input_ids": [5] * 20, "labels": [5] * 20}])
    with pytest.raises(ValueError, match="Row 0 of task None has 20 tokens"):
        drop_oldest_items(words, tokenizer, 14)


def test_rows_of_titles_lose_their_oldest_items_but_one(dataset, tokenizer):
    test = Dataset.from_list([{"user_id": "bob", "history": ["apple", "pear", "bread"], "target": "hammer"}])
    written = build_history_title_rows(test, dataset.items, tokenizer)
    rows = Dataset.from_list(tokenize_rows(written, tokenizer))
    [ids] = rows["input_ids"][:]
    # The instruction has 5 tokens, three items 9, " The title of the next:" 6 and "claw hammer</s>" 3.
    assert len(ids) == 23
    short, report = drop_oldest_items(rows, tokenizer, 20)
    assert report == LengthReport(rows=1, items=1, targets=0)
    assert short[0]["input_ids"] == ids[:5] + ids[8:]
    assert short[0]["labels"] == [-100] * 17 + ids[-3:]
    short, report = drop_oldest_items(rows, tokenizer, 17)
    assert report.items == 2 and short[0]["input_ids"] == ids[:5] + ids[11:]
    with pytest.raises(ValueError, match="Row 0 of task 'history_title' has 23 tokens.*lower `max_text_tokens`"):
        drop_oldest_items(rows, tokenizer, 16)


def test_no_rows(rows, tokenizer):
    assert drop_oldest_items(rows.select([]), tokenizer, 11)[1] == LengthReport(0, 0, 0)
