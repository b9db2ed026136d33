"""Files that may be gzipped: their first bytes tell, not their names."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO


# What reading raises where a gzipped file ends too early or was damaged.
UNPACKING_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


def open_plain_or_gzip(path: str | Path) -> BinaryIO:
    """A file's bytes, unpacked if the file is gzipped."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file at {path}, but there is none. Check the path.")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")
