import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tsrec_hf.models import SIDIndex
from tsrec_hf.semantics import ChatTeacher, KeywordTeacher, TokenSemantics, describe_tokens


CLUSTERS = {
    "<a_0>": [{"item_id": "1", "title": "Cobalt drill"}, {"item_id": "2", "title": "Titanium drill"}],
    "<a_1>": [{"item_id": "3", "title": "Latex glove"}],
}


def good(name: str) -> str:
    return json.dumps({"description": f"About {name}.", "keywords": [f"{name} {number}" for number in range(15)]})


class Scripted(ChatTeacher):
    """Answers from a function of the conversation, and counts."""

    def __init__(self, answer, model="m", **kwargs) -> None:
        super().__init__(**kwargs)
        self.answer, self.model, self.conversations = answer, model, []

    def identity(self):
        return {"teacher": "Scripted", "model": self.model}

    def ask(self, conversations):
        for number, messages in reversed(list(enumerate(conversations))):
            self.conversations.append(messages)
            yield number, self.answer(messages)


def about(messages) -> str:
    return "gloves" if "glove" in messages[0]["content"] else "drills"


def test_good_answers_become_descriptions_with_provenance() -> None:
    teacher = Scripted(lambda messages: good(about(messages)))
    described = teacher.describe(CLUSTERS)
    assert list(described) == ["<a_0>", "<a_1>"]
    assert described["<a_0>"].description == "About drills." and described["<a_1>"].keywords[0] == "gloves 0"
    assert described["<a_0>"].provenance == {
        "teacher": "Scripted",
        "model": "m",
        "prompt_version": 1,
        "num_items": 2,
        "num_sampled": 2,
        "num_bad_answers": 0,
    }
    report = teacher.report
    assert (report.num_tokens, report.asked, report.bad_answers, report.fallbacks) == (2, 2, 0, [])


def test_a_bad_answer_is_sent_back_once_and_then_counts() -> None:
    teacher = Scripted(lambda messages: good(about(messages)) if len(messages) == 3 else "Drills!")
    described = teacher.describe(CLUSTERS)
    assert described["<a_1>"].description == "About gloves."
    assert described["<a_1>"].provenance["num_bad_answers"] == 1
    assert (teacher.report.asked, teacher.report.bad_answers, teacher.report.fallbacks) == (4, 2, [])
    assert teacher.conversations[-1][1] == {"role": "assistant", "content": "Drills!"}
    assert "found none" in teacher.conversations[-1][2]["content"]


def test_what_stays_bad_is_left_to_the_keyword_teacher(caplog) -> None:
    teacher = Scripted(lambda messages: good("drills") if about(messages) == "drills" else "{}", max_retries=1)
    with caplog.at_level(logging.WARNING):
        described = teacher.describe(CLUSTERS)
    assert "1 of 2 tokens got no usable answer" in caplog.text and "<a_1>" in caplog.text
    expected = KeywordTeacher().describe(CLUSTERS)["<a_1>"]
    assert (described["<a_1>"].description, described["<a_1>"].keywords) == (expected.description, expected.keywords)
    assert described["<a_1>"].provenance == {
        "teacher": "KeywordTeacher",
        "num_items": 1,
        "fallback_for": {"teacher": "Scripted", "model": "m", "prompt_version": 1},
        "num_bad_answers": 2,
    }
    assert teacher.report.fallbacks == ["<a_1>"] and teacher.report.bad_answers == 2
    assert TokenSemantics(described.values()).count_teachers() == {"Scripted (m)": 1, "KeywordTeacher": 1}


def test_no_answer_is_not_kept_and_asked_again_next_time(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    first = Scripted(lambda messages: None if about(messages) == "gloves" else good("drills"), cache_file=file)
    assert first.describe(CLUSTERS)["<a_1>"].provenance["teacher"] == "KeywordTeacher"
    assert (first.report.asked, first.report.unanswered, first.report.fallbacks) == (1, 1, ["<a_1>"])
    second = Scripted(lambda messages: good(about(messages)), cache_file=file)
    assert second.describe(CLUSTERS)["<a_1>"].description == "About gloves."
    assert (second.report.asked, second.report.from_cache) == (1, 1)


def test_bad_answers_are_kept_too(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    first = Scripted(lambda messages: "no", cache_file=file).describe(CLUSTERS)

    def never(messages):
        raise AssertionError("asked again")

    second = Scripted(never, cache_file=file)
    assert second.describe(CLUSTERS) == first and second.report.from_cache == 6 and second.report.asked == 0


@pytest.mark.parametrize("change", ["catalogue", "model", "prompt"])
def test_answers_of_something_else_are_not_reused(tmp_path: Path, monkeypatch, change: str) -> None:
    file = tmp_path / "answers.jsonl"
    Scripted(lambda messages: good("old"), cache_file=file).describe(CLUSTERS)
    clusters, model = CLUSTERS, "m"
    if change == "catalogue":
        clusters = {token: [{"title": "Tape"}, *items] for token, items in CLUSTERS.items()}
    elif change == "model":
        model = "n"
    else:
        monkeypatch.setattr("tsrec_hf.semantics.chat_teacher.PROMPT_VERSION", 2)
    teacher = Scripted(lambda messages: good("new"), model=model, cache_file=file)
    described = teacher.describe(clusters)
    assert {meaning.description for meaning in described.values()} == {"About new."}
    assert (teacher.report.asked, teacher.report.from_cache) == (2, 0)


def test_the_sample_keeps_the_budget_the_order_and_no_title_twice() -> None:
    teacher = Scripted(lambda messages: good("x"), sample_tokens=8, sample_items=3)
    items = [{"title": title} for title in ("Hex bolt", "hex bolt", "A very long title of a bolt that says it all")]
    items += [{"title": "Nut"}, {"title": "Bolt", "description": "with nut"}, {"title": "Last of them"}]
    teacher.describe({"<a_0>": items})  # 8 characters are 2 tokens, 3 are 1, "Bolt with nut" 4; then nothing fits
    [content] = [messages[0]["content"] for messages in teacher.conversations]
    assert "The following 3 of 6 items" in content
    assert "1. Hex bolt\n2. Nut\n3. Bolt with nut\n\n" in content


def test_a_cluster_without_text_is_not_asked_about() -> None:
    with pytest.raises(ValueError, match="1 items of <a_0>, found none"):
        Scripted(lambda messages: pytest.fail("asked")).describe({"<a_0>": [{"item_id": "9", "title": ""}]})


def test_settings_are_checked() -> None:
    for wrong in ({"sample_tokens": 0}, {"sample_items": 0}, {"max_retries": -1}):
        with pytest.raises(ValueError, match="The defaults are 1500, 40 and 2"):
            Scripted(None, **wrong)


def catalogue():
    """Twelve items in twelve clusters of level a, all of them in one of level b."""
    codes = np.stack([np.arange(12), np.zeros(12)], axis=1).astype(np.int32)
    ids = [f"i{number}" for number in range(12)]
    return [{"item_id": item_id, "title": f"Thing {item_id}"} for item_id in ids], SIDIndex(ids, codes)


class Diary(Scripted):
    """Writes every question down when it is asked; kills its process when asked for more than it may answer."""

    def __init__(self, folder: Path, answers: int) -> None:
        super().__init__(self.write_down, cache_file=folder / "answers.jsonl")
        self.diary, self.left = folder / "asked.txt", answers

    def write_down(self, messages) -> str:
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        with self.diary.open("a") as file:
            file.write(json.dumps(messages) + "\n")
        # Things 0, 1, 10 and 11 need a second try.
        return "no" if len(messages) == 1 and re.search(r"Thing i[01]", messages[0]["content"]) else good("things")


KILLED = """
import sys
from pathlib import Path
from test_chat_teacher import Diary, catalogue, describe_tokens

describe_tokens(*catalogue(), Diary(Path(sys.argv[1]), answers=int(sys.argv[2])))
"""


@pytest.mark.parametrize("answers", [1, 14])
def test_a_killed_run_resumes_without_asking_twice(tmp_path: Path, answers: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(answers)], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == answers
    teacher = Diary(tmp_path, answers=100)
    semantics = describe_tokens(*catalogue(), teacher)
    asked = (tmp_path / "asked.txt").read_text().splitlines()
    # 12 questions and 4 second tries, then level b, whose items are all things: one and a second try.
    assert len(asked) == len(set(asked)) == 18
    assert (teacher.report.from_cache, teacher.report.asked) == (answers, 18 - answers)
    # Where an answer comes from leaves no trace in the result.
    assert semantics == describe_tokens(*catalogue(), Diary(tmp_path, answers=0))
    assert semantics.count_teachers() == {"Scripted (m)": 13}


def test_describe_tokens_with_a_chat_teacher() -> None:
    semantics = describe_tokens(*catalogue(), Scripted(lambda messages: good("things")))
    assert len(semantics) == 13 and semantics["<b_0>"].provenance["num_items"] == 12


def test_missing_sklearn_is_found_before_any_question(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(ChatTeacher):
        def identity(self):
            return {"teacher": "Asked", "model": "m"}

        def ask(self, conversations):
            pytest.fail("a question was asked")

    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ImportError, match="needs scikit-learn"):
        Asked().describe({"<a_0>": [{"title": "Cobalt drill"}]})
