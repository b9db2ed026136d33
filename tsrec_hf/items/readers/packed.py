"""Open files that may be gzipped, recognised by their first bytes and not by their names, within bounds."""

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, cast


# Errors that reading a truncated or damaged gzipped file raises.
UNPACKING_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
# What a stranger's file may ask of the memory. No line of a data set is as long, and no data set shrinks as much: gzip
# makes up to 1,032 bytes of one, text of one byte about ten.
LONGEST_LINE = 64 << 20
MOST_PER_BYTE = 200
MOST_UNPACKED_ANYWAY = 256 << 20


def open_plain_or_gzip(path: str | Path) -> BinaryIO:
    """
    Opens a file in binary mode and decompresses it if it is gzipped.

    Reading raises `ValueError` where a line, or what a small file unpacks to, is too long to be of a data set.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file at {path}, but there is none. Check the path.")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    # A `GzipFile` has the methods of a `BinaryIO`, but is not declared as one.
    return cast(BinaryIO, _Unpacked(path) if packed else _Plain(path))


class _Plain(io.BufferedReader):
    """A file whose lines have a longest length."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))

    def readline(self, size: int | None = -1, /) -> bytes:
        return _whole_line(super().readline(_most_of_line(size)), size, self.name)


class _Unpacked(gzip.GzipFile):
    """A gzipped file whose lines have a longest length, and that unpacks to a bounded size."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.limit = max(MOST_UNPACKED_ANYWAY, MOST_PER_BYTE * path.stat().st_size)

    def read(self, size: int | None = -1) -> bytes:
        # One byte more than may be, so that too much is found before it is all in memory.
        return self._within(super().read(self.limit + 1 if size is None or size < 0 else size))

    def read1(self, size: int = -1) -> bytes:
        return self._within(super().read1(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._within(_whole_line(super().readline(_most_of_line(size)), size, self.name))

    def _within(self, data: bytes) -> bytes:
        if self.tell() > self.limit:
            raise ValueError(
                f"Expected {self.name} to unpack to at most {self.limit:,} bytes, {MOST_PER_BYTE} for each of its "
                "own, but found more. If it is yours and right, unpack it with `gunzip` first."
            )
        return data


def _most_of_line(size: int | None) -> int:
    return LONGEST_LINE + 1 if size is None or size < 0 else size


def _whole_line(line: bytes, size: int | None, name: str | Path) -> bytes:
    if (size is None or size < 0) and len(line) > LONGEST_LINE:
        raise ValueError(
            f"Expected lines of at most {LONGEST_LINE:,} bytes in {name}, but found a longer one. Write a row a line."
        )
    return line
