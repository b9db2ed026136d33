"""
Files that are replaced, never overwritten.

A file is written under another name in its own folder, waited for until it is on the disk, and renamed. Whoever reads
finds the old file or the new one, whole, whenever the process dies and however full the disk is.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


REMEDIES = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EDQUOT: "Free some of your quota, or write to another disk.",
    errno.EROFS: "The disk is mounted to be read only: write to another folder.",
    errno.EACCES: "Ask for the right to write there, or write to another folder.",
    errno.EPERM: "Ask for the right to write there, or write to another folder.",
    errno.ENOTDIR: "A part of the path is a file: write to another folder.",
    errno.EEXIST: "A part of the path is a file: write to another folder.",
    errno.EISDIR: "A folder of that name is in the way: remove it, or choose another name.",
}


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """
    A temporary path beside `path`, for a file or a folder, that takes its place at the end of the block.

    After an error the temporary path is removed, and what was at `path` before is still there.

    Args:
        path (`str` or `Path`):
            What is to be written; its folder is made if missing. A folder at `path` cannot be replaced.

    Raises:
        `OSError`: a full disk, a folder that may not be written to, and the like, in one line that names the file.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.models.replacing_tsrec import replaced

    >>> path = Path(tempfile.mkdtemp(), "report.md")
    >>> with replaced(path) as part:
    ...     _ = part.write_text("whole")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('whole', 1)
    ```
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            for written in [*part.rglob("*"), part]:
                sync(written)
            if path.is_file():
                shutil.copymode(path, part)
            os.replace(part, path)
            sync(path.parent)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            # The error that led here is the one to tell.
            with suppress(OSError):
                part.unlink()


def write_text(path: str | Path, text: str) -> None:
    """
    Writes a file of text in UTF-8, all of it or nothing; lines end as they do in `text`.

    Raises:
        `ValueError`: half of a surrogate pair, which UTF-8 cannot hold. `OSError`: as [`replaced`].
    """
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Expected text for {path} that UTF-8 can hold, but found {text[error.start : error.end]!r}, half of a "
            f"surrogate pair, behind {text[max(0, error.start - 20) : error.start]!r}. Remove it, or repair the text "
            "where it is read."
        ) from error
    with replaced(path) as part:
        part.write_bytes(content)


def sync(path: Path) -> None:
    """Waits until a file or, where the system can tell, the names in a folder are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Tells in one line why a file cannot be written, and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None:
            # safetensors tells the number in words.
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else None
        if number not in REMEDIES:
            raise
        before = "what was there before is as it was" if path.exists() else "nothing is left of it"
        raise OSError(
            number, f"Expected to write {path}, but found: {os.strerror(number)}; {before}. {REMEDIES[number]}"
        ) from error
