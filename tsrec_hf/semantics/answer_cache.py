"""Cache a teacher's answers as JSON lines, so that an interrupted run resumes without asking again."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.sids.shared_file import append


logger = logging.getLogger(__name__)

START = b'{"key": "'


class AnswerCache:
    r"""
    Caches answers in a file, with a hash of the question as key.

    The hash covers everything that determines an answer: teacher, model, settings and conversation. Another catalogue,
    prompt or model has other keys, so several runs can share a file, also at the same time. Each answer is appended
    when it arrives. Lines that hold no answer (interrupted run, full disk) are left out with a warning; a file of
    another kind is an error.

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

    @checks_types
    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._answers: dict[str, str] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, question: dict[str, Any]) -> str | None:
        """Returns the cached answer to `question`, or `None`."""
        return self._answers.get(_key(question))

    def add(self, question: dict[str, Any], answer: str) -> None:
        """
        Stores an answer and writes it to the file before returning. Safe to call from several threads and processes.

        Raises:
            `TypeError`: an answer that is no string. `OSError`: a full disk and the like.
        """
        if not isinstance(answer, str):
            raise TypeError(f"Expected an answer as a string, but found {answer!r}. Leave out what is no answer.")
        key = _key(question)
        if self.path is not None:
            # `json.dumps` escapes to ASCII: a lone surrogate in an answer could not be encoded as UTF-8.
            append(self.path, (json.dumps({"key": key, "answer": answer}) + "\n").encode("ascii"))
        self._answers[key] = answer

    def _read(self, path: Path) -> None:
        if path.is_dir():
            raise ValueError(f"Expected a file for the cache at {path}, but found a folder. Name a file in it.")
        lines = path.read_bytes().split(b"\n")
        unread = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                key, answer = row["key"], row["answer"]
                if not (isinstance(key, str) and isinstance(answer, str)):
                    raise TypeError
            except (ValueError, TypeError, KeyError, RecursionError):
                if number == 1 and not line.startswith(START[: len(line)]):
                    raise ValueError(
                        f"Expected {path} to hold answers, a JSON line with `key` and `answer` each, but it begins "
                        f"with {line[:40]!r}. Name another file for the cache."
                    ) from None
                if line:
                    unread.append(number)
                continue
            self._answers[key] = answer
        if unread:
            # Cut off by the end of a process, or spoiled; the other answers are as good as before.
            logger.warning(
                f"{path}: {len(unread)} lines hold no answer, first line {unread[0]}; their questions are asked again."
            )


def _key(question: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode("ascii")).hexdigest()
