import dataclasses
import logging

import pytest
from datasets import Dataset

from tsrec_hf.data import build_alignment_rows, build_history_title_rows, build_sft_mixture, build_title_rows
from tsrec_hf.data.text_length import shorten_texts
from tsrec_hf.semantics import TokenDescription, TokenSemantics


LONG = "steel claw hammer " * 200


@pytest.fixture
def wordy(dataset):
    """The tiny catalogue with titles of 600 words, 3,600 characters."""
    titles = [f"{title} {LONG}".strip() for title in dataset.items["title"]]
    items = Dataset.from_dict({"item_id": dataset.items["item_id"][:], "title": titles})
    return dataclasses.replace(dataset, items=items)


def test_texts_are_cut_to_tokens_at_a_word(tokenizer, caplog):
    texts = ["steel nail", LONG, "red apple, red apple", ""]
    with caplog.at_level(logging.WARNING):
        assert shorten_texts(texts, tokenizer, 3, "titles") == [
            "steel nail",
            "steel claw hammer",
            "red apple",  # the third token is the comma
            "",
        ]
    assert "2 of 4 titles were cut to 3 tokens, at a word." in caplog.text
    caplog.clear()
    assert shorten_texts(texts[:1], tokenizer, 2) == texts[:1] and not caplog.records
    with pytest.raises(ValueError, match="`max_text_tokens` of at least 1, but found 0. The default is 256"):
        shorten_texts(texts, tokenizer, 0)


def test_rows_keep_instruction_and_sid(wordy, tokenizer):
    title, item = build_title_rows(wordy.items, tokenizer, max_text_tokens=3).select([0, 1])
    assert (title["prompt"], title["completion"]) == ("<a_0><b_0><c_0> is titled:", " claw hammer steel</s>")
    assert (item["prompt"], item["completion"]) == ("The item titled: claw hammer steel is:", "<a_0><b_0><c_0>")
    row = build_history_title_rows(wordy.train, wordy.items, tokenizer, max_text_tokens=3)[0]
    assert row["prompt"].endswith(" The title of the next:") and row["completion"] == " steel nail steel</s>"


def test_descriptions_and_keywords_are_bounded(semantics, tokenizer):
    long = TokenSemantics(TokenDescription(token, LONG, ["steel", "claw hammer"]) for token in semantics)
    rows = build_alignment_rows(long, tokenizer, keywords=True, max_text_tokens=2)
    assert rows["completion"][:3] == [" steel claw</s>", "<a_0>", " steel</s>"]
    assert rows["prompt"][1] == "Which token means: steel claw It is:"


def test_every_task_fits_a_row_of_512_tokens(wordy, semantics, tokenizer):
    long = TokenSemantics(TokenDescription(token, LONG, ["steel"] * 600) for token in semantics)
    rows = build_sft_mixture(wordy, long, tokenizer, keywords=True)
    assert max(map(len, rows["input_ids"])) < 512
    # Rows of the published size lose nothing.
    assert max(map(len, rows["input_ids"])) > 256
