"""Cache a teacher's answers as JSON lines, so that an interrupted run resumes without asking again."""

import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)


class AnswerCache:
    r"""
    Caches answers in a file, with a hash of the question as key.

    The hash covers everything that determines an answer: teacher, model, settings and conversation. Another catalogue,
    prompt or model has other keys, so several runs can share a file. Each answer is appended when it arrives. A
    truncated last line (interrupted run, full disk) is removed; any other line that cannot be parsed is an error.

    Args:
        path (`str` or `Path`, *optional*):
            The file; it is created with the first answer. By default answers are kept in memory only.

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
        """Returns the cached answer to `question`, or `None`."""
        return self._answers.get(_key(question))

    def add(self, question: dict[str, Any], answer: str) -> None:
        """Stores an answer and writes it to the file before returning. Safe to call from several threads."""
        key = _key(question)
        # `json.dumps` escapes to ASCII: a lone surrogate in an answer could not be encoded as UTF-8.
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
            # Truncate, so that the next answer starts on a line of its own.
            logger.info("%s: the last line was cut off and is asked again.", path)
            with path.open("r+b") as file:
                file.truncate(whole)


def _key(question: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode("ascii")).hexdigest()
