import errno
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tsrec_hf.semantics import AnswerCache
from tsrec_hf.sids import shared_file


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
        assert again.get(question("a")) == "one"
        # Only the end of the line may be missing.
        assert again.get(question("b")) == ("two" if cut == len(whole) - 1 else None)
        again.add(question("b"), "three")  # starts a line of its own
        assert AnswerCache(path).get(question("b")) == "three" and len(AnswerCache(path)) == 2


@pytest.mark.parametrize("line", ["{}", "[1]", '{"key": "k", "answer": 3}', '{"key": "k", "ans', "\x80", "[" * 9999])
def test_a_bad_line_spoils_no_other(tmp_path: Path, line: str, caplog) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerCache(path).add(question("a"), "one")
    path.write_text(path.read_text() + line + "\n")
    cache = AnswerCache(path)
    cache.add(question("b"), "two")
    caplog.clear()
    again = AnswerCache(path)
    assert (again.get(question("a")), again.get(question("b")), len(again)) == ("one", "two", 2)
    assert "1 lines hold no answer, first line 2; their questions are asked again" in caplog.text


def test_what_is_no_answer_is_not_kept(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.jsonl")
    with pytest.raises(TypeError, match="Expected an answer as a string, but found .'text'"):
        cache.add(question("a"), ["text"])
    assert cache.get(question("a")) is None and not cache.path.exists()


def test_a_full_disk_is_told_and_nothing_is_kept_in_memory_alone(tmp_path: Path, monkeypatch) -> None:
    cache = AnswerCache(tmp_path / "answers.jsonl")
    cache.add(question("a"), "one")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Expected to write .*answers.jsonl.*Free some"):
        patch.setattr(shared_file.os, "fsync", full)
        cache.add(question("b"), "two")
    assert cache.get(question("b")) is None and AnswerCache(cache.path).get(question("a")) == "one"


WRITER = """
import sys
from tsrec_hf.semantics.answer_cache import AnswerCache

name, path = sys.argv[1:]
for number in range(60):
    # Opened anew: whoever reads what another has half written must spoil nothing.
    cache = AnswerCache(path) if number % 3 == 0 else cache
    cache.add({"question": f"{name} {number}"}, f"{name} {number} " + "x" * 3000)
    print(number, flush=True)
"""


def test_processes_that_write_at_once_lose_nothing_they_have_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    command = [sys.executable, "-c", WRITER]
    writers = {
        name: subprocess.Popen([*command, name, str(path)], stdout=subprocess.PIPE, text=True) for name in "abc"
    }
    writers["c"].stdout.readline()
    writers["c"].kill()  # in the middle of whatever it does
    acknowledged = {name: len(process.communicate()[0].split()) for name, process in writers.items()}
    assert acknowledged["a"] == acknowledged["b"] == 60
    cache = AnswerCache(path)
    for name, number in acknowledged.items():
        for one in range(number):
            assert cache.get({"question": f"{name} {one}"}).startswith(f"{name} {one} x")


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
