"""How a text file spells a table: delimiter, encoding, header and quotes, given or found in the file."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tsrec_hf.models.checking_tsrec import checks_types

from .json_lines import BLOCK_BYTES
from .packed import open_plain_or_gzip


DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".inter": "\t", ".item": "\t"}
# Their delimiter is found in the first lines.
UNDECLARED = (".txt", ".dat", ".data")
CANDIDATES = ("::", "\t", "|", ";", ",")
LINES_TO_TRY = 20
# Formats in which a cell may stand in quotes; in others a quote is a character like any other, unless all balance.
QUOTED = (",", ";")
# Takes the place of a delimiter of several characters or outside ASCII, for readers that know only others.
UNIT_SEPARATOR = "\x1f"
RECBOLE_TYPE = re.compile(r":(token|token_seq|float|float_seq)$")
BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@checks_types
@dataclass(frozen=True)
class TableFile:
    r"""
    A table in a file, with what its name does not tell.

    Args:
        path (`str` or `Path`):
            The file, or a folder of Parquet files.
        delimiter (`str`, *optional*):
            What separates the columns, one character or several. By default `,` for `.csv` and a tab for `.tsv`,
            `.inter` and `.item`; in `.txt`, `.dat` and `.data` it is found in the first lines.
        encoding (`str`, *optional*):
            Encoding of a text file, such as `latin-1` or `gbk`; UTF-8 by default, or UTF-16 where a mark says so.
        names (`list[str]`, *optional*):
            Names of the columns, in order, of a file without a header line.
        header (`bool`, *optional*):
            Whether the first line is a header; by default it is, unless `names` are given. With both, `names` replace
            those of the header.
        quotes (`bool`, *optional*):
            Whether cells may stand in double quotes. By default they may where `,` or `;` separates, and elsewhere
            only if every quote that opens a cell is closed in that cell.
        escape (`str`, *optional*):
            The character before a quote inside quotes, where it is not doubled: a backslash.

    Example:

    ```python
    >>> from tsrec_hf import TableFile

    >>> TableFile("ratings.dat", delimiter="::", names=["user_id", "item_id", "rating", "timestamp"]).delimiter
    '::'
    ```
    """

    path: str | Path
    delimiter: str | None = None
    encoding: str | None = None
    names: list[str] | None = None
    header: bool | None = None
    quotes: bool | None = None
    escape: str | None = None

    def __post_init__(self) -> None:
        if self.header is False and not self.names:
            raise ValueError(
                f"Expected the names of the columns of {self.path}, because it has no header, but found none. Give "
                "them in their order: `interaction_names=[...]` or `item_names=[...]`."
            )

    @property
    def suffix(self) -> str:
        """What the file's name ends in, less `.gz`."""
        return Path(Path(self.path).name.removesuffix(".gz")).suffix.lower()


@dataclass(frozen=True)
class Dialect:
    """A table file as it is spelled; `separator` is the single character that blocks are read by."""

    path: Path
    delimiter: str
    encoding: str
    names: list[str]
    has_header: bool
    quotes: bool | None  # `None`: to be found while the rows are read
    escape: str | None

    @property
    def separator(self) -> str:
        return self.delimiter if len(self.delimiter) == 1 and self.delimiter.isascii() else UNIT_SEPARATOR

    def blocks(self) -> Iterator[bytes]:
        """Yields blocks of whole lines in UTF-8, with single characters between the columns."""
        if self.encoding == "utf-8" and self.separator == self.delimiter:
            with open_plain_or_gzip(self.path) as file:
                mark = file.read(len(codecs.BOM_UTF8))
                start = b"" if mark == codecs.BOM_UTF8 else mark
                while block := start + file.read(BLOCK_BYTES) + file.readline():
                    yield block
                    start = b""
            return
        with open_text(self.path, self.encoding) as lines:
            while text := lines.read(BLOCK_BYTES) + lines.readline():
                if self.separator != self.delimiter:
                    if UNIT_SEPARATOR in text:
                        raise ValueError(
                            f"Expected {self.path} without the control character {UNIT_SEPARATOR!r}, which stands for "
                            f"{self.delimiter!r} while it is read, but found it. Remove it from the file."
                        )
                    text = text.replace(self.delimiter, UNIT_SEPARATOR)
                yield text.encode("utf-8", errors="replace")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yields every row in pure Python, with the number of its first line; errors are those of the `csv` module."""
        text = io.TextIOWrapper(
            io.BufferedReader(BlockStream(self.blocks())), encoding="utf-8", errors="replace", newline=""
        )
        rows = csv.reader(
            text,
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
            doublequote=self.escape is None,
            escapechar=self.escape,
            strict=True,
        )
        line = 1
        for row in rows:
            if row:
                yield line, row
            line = rows.line_num + 1


class BlockStream(io.RawIOBase):
    """Blocks as a file, for `io.TextIOWrapper`, `csv` and Arrow; counts the lines that went by, and their quotes."""

    def __init__(self, blocks: Iterator[bytes], quotes: "QuoteCount | None" = None) -> None:
        self._blocks, self._rest, self._last, self.lines, self._quotes = blocks, memoryview(b""), b"\n", 0, quotes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[override]
        if not self._rest:
            block = next(self._blocks, b"")
            self.lines += block.count(b"\n") if block else self._last != b"\n"
            self._last = block[-1:] or b"\n"
            self._rest = memoryview(block)
            if self._quotes is not None:
                self._quotes.add(block)
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)


class QuoteCount:
    """
    Counts the cells that begin with a quote, and those that also end with one, on the same line.

    A title such as `"Alien", the novel` shows that a file has no quoting: read with it, the cell would go on to the
    next quote and swallow the rows between.
    """

    def __init__(self, separator: str) -> None:
        sign = re.escape(separator.encode())
        self._open = re.compile(rb"(?m)(?:^|" + sign + rb')"')
        self._closed = re.compile(rb"(?m)(?:^|(?<=" + sign + rb'))"(?:[^"\r\n]|"")*"(?=' + sign + rb"|\r?$)")
        self._counts = [0, 0]

    def add(self, lines: bytes) -> None:
        if b'"' in lines:
            self._counts[0] += len(self._open.findall(lines))
            self._counts[1] += len(self._closed.findall(lines))

    @property
    def balance(self) -> bool:
        """Whether there are quoted cells and nothing contradicts them."""
        opened, closed = self._counts
        return opened == closed > 0


def open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    """Opens a text file, plain or gzipped; its line ends stay as they are."""
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    return io.TextIOWrapper(open_plain_or_gzip(path), encoding=encoding, newline="")


def find_dialect(file: TableFile) -> Dialect:
    """Completes what is known of a file by its name and its first lines."""
    path = Path(file.path)
    encoding = _encoding_of(file)
    lines = _first_lines(path, encoding)
    delimiter = file.delimiter or DELIMITERS.get(file.suffix) or _find_delimiter(path, lines)
    quotes = True if file.quotes is None and delimiter in QUOTED else file.quotes
    has_header = not file.names if file.header is None else file.header
    dialect = Dialect(path, delimiter, encoding, list(file.names or []), has_header, quotes, file.escape)
    if file.names or not lines:
        return dialect
    first = [line.replace(delimiter, dialect.separator) for line in lines]
    count = QuoteCount(dialect.separator)
    count.add(first[0].rstrip("\r\n").encode("utf-8", errors="replace"))
    quoted = quotes or (quotes is None and count.balance)
    rows = csv.reader(first, delimiter=dialect.separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    found = next(rows, [])
    names = [RECBOLE_TYPE.sub("", name) if file.suffix in (".inter", ".item") else name for name in found]
    return replace(dialect, names=names)


def _encoding_of(file: TableFile) -> str:
    if file.encoding is not None:
        try:
            name = codecs.lookup(file.encoding).name
        except LookupError as error:
            raise ValueError(
                f"Expected an encoding that Python knows, such as 'utf-8', 'latin-1' or 'gbk', for {file.path}, but "
                f"found {file.encoding!r}. Correct it."
            ) from error
        return "utf-8" if name == "utf-8-sig" else name
    with open_plain_or_gzip(file.path) as opened:
        mark = opened.read(2)
    return BYTE_ORDER_MARKS.get(mark, "utf-8")


def _first_lines(path: Path, encoding: str) -> list[str]:
    with io.TextIOWrapper(
        open_plain_or_gzip(path), "utf-8-sig" if encoding == "utf-8" else encoding, "replace"
    ) as file:
        return [line for _, line in zip(range(LINES_TO_TRY), file) if line.strip()]


def _find_delimiter(path: Path, lines: list[str]) -> str:
    for delimiter in CANDIDATES:
        counts = {line.count(delimiter) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return delimiter
    raise ValueError(
        f"Expected the lines of {path} to be separated by one of {list(CANDIDATES)}, as often in each, but found none "
        "such. Pass the `delimiter` (`--delimiter`)."
    )
