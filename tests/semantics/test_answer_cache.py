import json
import threading
from pathlib import Path

import pytest

from tsrec_hf.semantics import AnswerCache


def question(word: str, **others) -> dict:
    return {"model": "m", "messages": [{"role": "user", "content": word}], **others}


def test_answers_survive_and_are_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    cache = AnswerCache(path)
    assert not path.exists() and cache.get(question("ä")) is None
    for number, word in enumerate(["ä", "b"], start=1):
        cache.add(question(word), f"to {word}\n\ud800")  # half a surrogate pair
        assert len(path.read_bytes().splitlines()) == number
    again = AnswerCache(path)
    assert len(again) == 2 and again.get(question("ä")) == "to ä\n\ud800"


@pytest.mark.parametrize(
    "other", [question("b"), question("a", model="n"), question("a", temperature=1.0), {"model": "m", "messages": []}]
)
def test_other_content_has_another_key(other: dict) -> None:
    cache = AnswerCache()
    cache.add(question("a"), "yes")
    assert cache.get(other) is None and cache.get(dict(reversed(question("a").items()))) == "yes"


def test_every_cut_of_the_last_line_is_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    cache = AnswerCache(path)
    cache.add(question("a"), "one")
    first = path.read_bytes()
    cache.add(question("b"), "two")
    whole = path.read_bytes()
    for cut in range(len(first), len(whole)):
        path.write_bytes(whole[:cut])
        again = AnswerCache(path)
        assert again.get(question("a")) == "one" and again.get(question("b")) is None
        again.add(question("b"), "three")  # starts a line of its own
        assert AnswerCache(path).get(question("b")) == "three" and len(AnswerCache(path)) == 2


@pytest.mark.parametrize("line", ["{}", "[1]", '{"key": "k", "answer": 3}', '{"key": "k", "ans', ""])
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerCache(path).add(question("a"), "one")
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    with pytest.raises(ValueError, match=r"Expected line 2 of .*answers.jsonl to be an answer"):
        AnswerCache(path)


def test_another_kind_of_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keywords.json"
    for content in ("[1, 2]", json.dumps([{"token": "<a_0>"}], indent=1)):
        path.write_text(content)
        with pytest.raises(ValueError, match="keywords.json"):
            AnswerCache(path)
        assert path.read_text() == content


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.jsonl")
    jobs = [threading.Thread(target=cache.add, args=(question(str(n)), "x" * 20_000)) for n in range(20)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(AnswerCache(tmp_path / "answers.jsonl")) == 20
