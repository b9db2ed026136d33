"""Stages of a run that are done once: what made a stage's files is written beside them, and compared the next time."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsrec_hf.models.file_sets_tsrec import hash_of
from tsrec_hf.models.json_files_tsrec import read_json
from tsrec_hf.models.replacing_tsrec import write_text


STAGES_NAME = "stages.json"
# Each is made of those before it.
ORDER = ("data", "training", "prior", "evaluation")


def fingerprint_of(*inputs: Any) -> str:
    """
    A hash of what decides a stage: files by their contents, all else as JSON.

    Example:

    ```python
    >>> from tsrec_hf.recipes.stages import fingerprint_of

    >>> fingerprint_of({"seed": 0}) == fingerprint_of({"seed": 0}) != fingerprint_of({"seed": 1})
    True
    ```
    """
    told = [_of_path(one) if isinstance(one, Path) else one for one in inputs]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _of_path(path: Path) -> Any:
    if path.is_dir():
        return [[part.name, hash_of(part)] for part in sorted(path.rglob("*")) if part.is_file()]
    return hash_of(path)


class Stages:
    """
    Which stages of a folder are done, and with which inputs.

    Args:
        directory (`Path`):
            Folder of the run.
        fresh (`bool`, *optional*, defaults to `False`):
            Whether none counts as done.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.recipes.stages import Stages

    >>> folder = Path(tempfile.mkdtemp())
    >>> stages = Stages(folder)
    >>> stages.is_done("data", "1234", ["items.csv"])
    False
    >>> _ = (folder / "items.csv").write_text("")
    >>> stages.finish("data", "1234")
    >>> Stages(folder).is_done("data", "1234", ["items.csv"]), Stages(folder).is_done("data", "99", ["items.csv"])
    (True, False)
    ```
    """

    def __init__(self, directory: Path, fresh: bool = False) -> None:
        self.directory = directory
        path = directory / STAGES_NAME
        # The fingerprint of each; of one that the clock cut off, also the minutes it had.
        self._done: dict[str, str | list[Any]] = {} if fresh or not path.is_file() else dict(read_json(path))

    def is_done(self, stage: str, fingerprint: str, files: Sequence[str], minutes: float = 0.0) -> bool:
        """
        Whether the stage was done with these inputs, and its files are there. One that was cut off counts as done
        where there are no more minutes for it now than it had.
        """
        done = self._done.get(stage)
        before, had = done if isinstance(done, list) else (done, math.inf)
        return before == fingerprint and minutes <= had and all((self.directory / name).exists() for name in files)

    def begin(self, stage: str) -> None:
        """Forgets the stage, whose files are about to change, and those after it, whose files go with them."""
        for one in ORDER[ORDER.index(stage) :]:
            self._done.pop(one, None)
        # Also where none was remembered: what an earlier run wrote counts no longer.
        self._write()

    def finish(self, stage: str, fingerprint: str, cut_off_after: float | None = None) -> None:
        """Remembers what the stage's files were made of, and the minutes of a run that cut the stage off."""
        self._done[stage] = fingerprint if cut_off_after is None else [fingerprint, cut_off_after]
        self._write()

    def _write(self) -> None:
        write_text(self.directory / STAGES_NAME, json.dumps(self._done, indent=1))
