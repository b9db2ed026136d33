import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tsrec_hf.data import build_alignment_rows, tokenize_rows
from tsrec_hf.data.rows import count_tasks, longest_row


def test_a_token_across_the_border_belongs_to_the_completion():
    # "bc" is one token: behind the prompt "ab" comes "c", but the whole is a + bc.
    vocabulary = {token: number for number, token in enumerate(["a", "b", "c", "bc", "ab", "d"])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[("b", "c"), ("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenizer("ab").input_ids == [4] and tokenizer("abcd").input_ids == [0, 3, 5]
    rows = Dataset.from_dict({"prompt": ["ab", "d"], "completion": ["cd", "bc"], "task": ["title", "title"]})
    assert tokenize_rows(rows, tokenizer) == [
        {"input_ids": [0, 3, 5], "labels": [0, 3, 5], "task": "title"},
        {"input_ids": [5, 3], "labels": [-100, 3], "task": "title"},
    ]
    assert tokenize_rows(rows.select([]), tokenizer) == []


@pytest.mark.parametrize("kind", [None, "numpy", "pandas", "torch"])
def test_tasks_are_counted_in_the_order_of_their_first_rows(kind):
    rows = Dataset.from_dict({"task": ["title", "sequence", "title", "alignment"], "labels": [[1], [2], [3], [4]]})
    counts = count_tasks(rows.with_format(kind))
    assert list(counts.items()) == [("title", 2), ("sequence", 1), ("alignment", 1)]
    # Of the rows that were selected, not of the table behind them.
    assert count_tasks(rows.select([3, 1, 1])) == {"alignment": 1, "sequence": 2}
    assert count_tasks(rows.select([])) == {}


def test_the_longest_row_of_those_that_were_selected():
    rows = Dataset.from_dict({"input_ids": [[1, 2], [1, 2, 3], [1]]})
    assert longest_row(rows) == 3 and longest_row(rows.select([2, 0])) == 2 and longest_row(rows.select([])) == 0


def test_tokenised_rows_read_as_prompt_and_completion(semantics, tokenizer):
    rows = build_alignment_rows(semantics, tokenizer, keywords=True)
    for row, tokenized in zip(rows, tokenize_rows(rows, tokenizer), strict=True):
        labels = [label for label in tokenized["labels"] if label != -100]
        assert labels == tokenizer(row["completion"], add_special_tokens=False).input_ids
        assert tokenized["input_ids"] == tokenizer(row["prompt"], add_special_tokens=False).input_ids + labels
