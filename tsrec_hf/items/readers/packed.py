"""Open files that may be gzipped, recognised by their first bytes and not by their names."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast


# Errors that reading a truncated or damaged gzipped file raises.
UNPACKING_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


def open_plain_or_gzip(path: str | Path) -> BinaryIO:
    """Opens a file in binary mode and decompresses it if it is gzipped."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file at {path}, but there is none. Check the path.")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    # A `GzipFile` has the methods of a `BinaryIO`, but is not declared as one.
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")
