import json

import pytest

from tsrec_hf.semantics import build_question, parse_answer
from tsrec_hf.semantics.teacher_prompt import BadAnswerError, ask_again


KEYWORDS = [f"word {number}" for number in range(16)]


def answer(**fields) -> str:
    return json.dumps({"description": "Tools for wood.", "keywords": KEYWORDS, **fields})


@pytest.mark.parametrize(
    "text",
    [
        answer(),
        f"Sure, here it is:\n```json\n{answer()}\n```\nAnything else?",
        f'<think>{{"description": "no", "keywords": []}} {{ }}</think>{answer()}',
        f'{{"note": 1}} {{not json}} {answer()}',
        answer(confidence=0.9),
        answer(description=" Tools\n for  wood. ", keywords=[f" {word}\n" for word in KEYWORDS]),
        answer(keywords=[*KEYWORDS, "Word 3", "WORD 4"]),
    ],
    ids=["plain", "fenced", "thinking", "objects before it", "more fields", "spaces", "repeated"],
)
def test_answers_that_count(text: str) -> None:
    assert parse_answer(text) == ("Tools for wood.", KEYWORDS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found none"),
        ("Tools, saws and hammers.", "found none"),
        (answer()[:-5], "found none"),
        ('["description", "keywords"]', "found none"),
        ('{"description": "Tools."}', "found none"),
        ("{" * 30_000, "found none"),
        ('{"a":' * 9_000, "found none"),
        (" " * 60_000 + answer(), "at most 50000 characters"),
        (answer(description=["Tools."]), "`description` to be a string"),
        (answer(description="  "), "found 0"),
        (answer(description="x" * 3001), "found 3001"),
        (answer(keywords="saw, hammer"), "list of strings"),
        (answer(keywords=[*KEYWORDS, 7]), "every keyword to be a string"),
        (answer(keywords=[*KEYWORDS, " "]), "one of 0"),
        (answer(keywords=[*KEYWORDS, "x" * 81]), "one of 81"),
        (answer(keywords=KEYWORDS[:14]), "15 to 20 different keywords, found 14"),
        (answer(keywords=[*KEYWORDS[:14], "Word 0"]), "15 to 20 different keywords, found 14"),
        (answer(keywords=[f"word {number}" for number in range(21)]), "found 21"),
    ],
)
def test_answers_that_do_not_count(text: str, words: str) -> None:
    with pytest.raises(BadAnswerError, match=words):
        parse_answer(text)


def test_least_and_most_keywords_count() -> None:
    for number in (15, 20):
        keywords = [f"word {n}" for n in range(number)]
        assert parse_answer(answer(keywords=keywords))[1] == keywords


def test_code_in_an_answer_is_not_run() -> None:
    with pytest.raises(BadAnswerError):
        parse_answer('{"description": "x", "keywords": ["w" + str(n) for n in range(16)]}')


def test_items_cannot_break_the_numbering_or_the_template() -> None:
    [message] = build_question(["Saw\n2. {least} Hammer", "Nail"], total=9)
    lines = message["content"].splitlines()
    assert lines[0].startswith("The following 2 of 9 items")
    assert lines[2:4] == ["1. Saw 2. {least} Hammer", "2. Nail"]
    assert "15 to 20 strings" in message["content"]


def test_a_bad_answer_goes_back_with_the_reason() -> None:
    question = build_question(["Saw"], total=1)
    again = ask_again(question, "x" * 5000, BadAnswerError("Expected 15 to 20 different keywords, found 3."))
    assert again[:1] == question and [message["role"] for message in again] == ["user", "assistant", "user"]
    assert len(again[1]["content"]) == 500 and "found 3. Answer again" in again[2]["content"]
    assert ask_again(question, "", BadAnswerError("None."))[1]["content"]  # templates refuse empty messages
