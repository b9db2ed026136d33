"""
Files that belong together: written as one set, with a list of them, and refused when one is of another run.

A set is written to a folder inside its own, which gets its name, `_incoming-<list>`, when it is whole; then the files
move out of it, the list last. A process that dies before that leaves the old set as it was, and what it leaves while
files move is finished by whoever opens the folder next.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .json_files_tsrec import read_json
from .replacing_tsrec import replaced, write_text


SET_FILE = "file_set.json"
INCOMING = "_incoming-"


@contextmanager
def replaced_set(
    directory: str | Path, list_name: str = SET_FILE, facts: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """
    A temporary folder for files that replace those of the same names in `directory` at the end of the block, together.

    Files of an earlier set of this list that the new one lacks are removed; other files of the folder are kept.

    Args:
        directory (`str` or `Path`):
            Their folder, made if missing.
        list_name (`str`, *optional*, defaults to `"file_set.json"`):
            The file that lists them, with their sizes and SHA-256.
        facts (`dict`, *optional*):
            What else the list tells; read at the end of the block.

    Raises:
        `OSError`: as [`replaced`]; the old set is then still there.
    """
    directory = Path(directory)
    finish_sets(directory)
    with replaced(directory / f"{INCOMING}{list_name}") as part:
        part.mkdir()
        yield part
        files = [path for path in sorted(part.rglob("*")) if path.is_file()]
        names = [path.relative_to(part).as_posix() for path in files]
        sizes = {name: path.stat().st_size for name, path in zip(names, files)}
        hashes = {name: hash_of(path) for name, path in zip(names, files)}
        listed = {**(facts or {}), "bytes": sizes, "files": hashes}
        write_text(part / list_name, json.dumps(listed, ensure_ascii=False, indent=1))
    finish_sets(directory)


def finish_sets(directory: Path) -> None:
    """Moves the files of whole sets to their places, which a process may have left undone when it died."""
    for incoming in directory.glob(f"{INCOMING}*"):
        listed = incoming / incoming.name.removeprefix(INCOMING)
        if listed.is_file():
            files = _read_list(listed)
            old = directory / listed.name
            for name in (set(_read_list(old)) if old.is_file() else set()) - set(files):
                (directory / name).unlink(missing_ok=True)
            for name in [*files, listed.name]:
                # Those that are gone have moved already.
                if (incoming / name).is_file():
                    (directory / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(incoming / name, directory / name)
        # The list goes last: without it, all have moved.
        shutil.rmtree(incoming)


def check_listed(path: Path) -> None:
    """
    Raises `ValueError` for a file that is not the one that was written with the others of its folder.

    A file that no list names passes.
    """
    finish_sets(path.parent)
    listed = path.parent / SET_FILE
    expected = _read_list(listed).get(path.name) if listed.is_file() else None
    if expected is not None and path.is_file() and hash_of(path) != expected:
        raise ValueError(
            f"Expected {path} as it was written with the other files of {listed}, but found another content: it is a "
            "file of another run, or damaged. Make all of them again; if they are meant to be of several runs, remove "
            f"{SET_FILE}."
        )


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_list(path: Path) -> dict[str, str]:
    """Names and hashes of a list of files."""
    found = read_json(path)
    files = found.get("files") if isinstance(found, dict) else None
    # A name that leaves the folder is nobody's whom we know.
    if not isinstance(files, dict) or any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError(f"Expected {path} to list the files of its folder. Make them again.")
    return files
