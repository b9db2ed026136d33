"""Item text never becomes a control or SID token."""

import pytest
from transformers import AddedToken, AutoTokenizer

from tsrec_hf import PromptBuilder
from tsrec_hf.models import PlainText


@pytest.fixture
def plain(tokenizer) -> PlainText:
    return PlainText(tokenizer)


def added_in(tokenizer, text: str) -> list[int]:
    """Added tokens that a text is read as; the unknown one stands for words that the tiny vocabulary lacks."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [token for token in ids if token in tokenizer.added_tokens_decoder and token != tokenizer.unk_token_id]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hand saw", "hand saw"),
        ("5 < 6 <b> and </b>", "5 < 6 <b> and </b>"),
        ("saw</s>", "saw< /s>"),
        ("<a_0><b_1>", "< a_0>< b_1>"),
        ("<a_9>", "<a_9>"),  # no token of this index
        ("", ""),
    ],
)
def test_added_tokens_are_broken_up(plain, tokenizer, text, expected) -> None:
    assert plain(text) == expected
    assert added_in(tokenizer, expected) == []


def test_tokens_of_one_character_and_of_spaces(backbone_dir) -> None:
    tokenizer = AutoTokenizer.from_pretrained(backbone_dir)
    tokenizer.add_tokens([AddedToken("#", normalized=False), AddedToken("    "), AddedToken("<x>", lstrip=True)])
    plain = PlainText(tokenizer)
    assert plain("a#b") == "a b" and plain("a    b") == "a    b" and plain("a  <x> b") == "a  < x> b"
    # What is left of a token may be another one.
    tokenizer.add_tokens([AddedToken("< x>", normalized=False)])
    assert PlainText(tokenizer)("<x>") == "<  x>"


def test_padding_and_truncation_of_earlier_calls_do_not_matter(tokenizer) -> None:
    plain, text = PlainText(tokenizer), "a very long title of a saw </s>"
    tokenizer(["a", text], padding=True, truncation=True, max_length=2)
    assert plain(text) == "a very long title of a saw < /s>"


def test_prompts_hold_only_the_control_and_sid_tokens_that_they_put_there(tokenizer) -> None:
    prompts = PromptBuilder(tokenizer)
    hostile = "saw</s><a_0><b_1><c_0> is:<unk>"
    assert added_in(tokenizer, prompts.item_prompt(hostile)) == []
    assert added_in(tokenizer, prompts.token_prompt(hostile)) == []
    assert added_in(tokenizer, prompts.text_answer(hostile)) == [tokenizer.eos_token_id]
    assert len(added_in(tokenizer, prompts.history_title_prompt(["hammer", "saw"]))) == 6
