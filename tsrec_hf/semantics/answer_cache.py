"""Answers of a teacher on disk, one JSON line each, so that a killed run resumes without asking twice."""

import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)


class AnswerCache:
    r"""
    A file of answers, looked up by the content of their questions.

    The key is a hash of all that decides an answer: teacher, model, settings and the conversation. Another catalogue,
    prompt or model has other keys, so one file may serve many runs. Answers are appended one by one, as they come. A
    last line that was cut off, by a kill or a full disk, is removed; any other line that cannot be read is an error.

    Args:
        path (`str` or `Path`, *optional*):
            The file, made on the first answer. Without it, answers are kept in memory.

    Example:

    ```python
    >>> from tsrec_hf.semantics import AnswerCache

    >>> cache = AnswerCache()
    >>> question = {"model": "some/model", "messages": [{"role": "user", "content": "Which tools?"}]}
    >>> cache.add(question, "Drills.")
    >>> cache.get(question), cache.get({**question, "model": "another/model"})
    ('Drills.', None)
    ```
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._answers: dict[str, str] = {}
        self._lock = threading.Lock()
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, question: dict[str, Any]) -> str | None:
        """The answer to `question`, or `None`."""
        return self._answers.get(_key(question))

    def add(self, question: dict[str, Any], answer: str) -> None:
        """Keeps an answer; it is on disk when this returns. May be called from several threads."""
        key = _key(question)
        # ASCII alone: half of a surrogate pair in an answer could not be written as UTF-8.
        line = json.dumps({"key": key, "answer": answer}) + "\n"
        with self._lock:
            self._answers[key] = answer
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as file:
                    file.write(line.encode("ascii"))

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                key, answer = row["key"], row["answer"]
                if not (isinstance(key, str) and isinstance(answer, str)):
                    raise TypeError("`key` and `answer` are not strings")
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"Expected line {number} of {path} to be an answer (`key` and `answer` as JSON), but it cannot be "
                    f"read: {error}. Remove the line to have this question asked again, or name another file."
                ) from error
            self._answers[key] = answer
        if whole < len(content):
            if not content[whole:].startswith(b'{"key"'[: len(content) - whole]):
                raise ValueError(
                    f"Expected {path} to hold answers, one JSON line each, but it ends in another form. Name another "
                    "file for the cache."
                )
            # What is appended next must start a line of its own.
            logger.info("%s: the last line was cut off and is asked again.", path)
            with path.open("r+b") as file:
                file.truncate(whole)


def _key(question: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode("ascii")).hexdigest()
