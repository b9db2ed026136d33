"""Files that several processes append to: an entry is there whole when the call returns, and nobody's is lost."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

from tsrec_hf.models.replacing_tsrec import write_errors


# An entry is written in milliseconds. Whoever holds the lock for longer hangs.
LONGEST_WAIT = 120.0


def append(path: Path, content: bytes, record_bytes: int | None = None) -> None:
    """
    Appends to a file; entries are on the disk when this returns.

    What a process that died left of its last entry does not reach into the new ones: a line that was begun is ended,
    and part of a record removed.

    Args:
        path (`Path`):
            The file, made with its folder if missing. Its lock is the file `<path>.lock`.
        content (`bytes`):
            Whole lines, or whole records.
        record_bytes (`int`, *optional*):
            Size of a record; the file is of lines where absent.

    Raises:
        `OSError`: a full disk and the like; what was there before is. `TimeoutError`: another process holds the lock.
    """
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock", timeout=LONGEST_WAIT), path.open("a+b") as file:
                # Where the file ends is known only while nobody else writes.
                size = file.seek(0, os.SEEK_END)
                if record_bytes is not None:
                    file.truncate(size - size % record_bytes)
                elif size:
                    file.seek(-1, os.SEEK_END)
                    content = content if file.read(1) == b"\n" else b"\n" + content
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except Timeout as error:
        raise TimeoutError(
            f"Expected to write to {path} within {LONGEST_WAIT:g} seconds, but another process holds {path}.lock. "
            "End that process, or name another file."
        ) from error
