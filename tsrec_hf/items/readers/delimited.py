"""
Read columns of delimited text files as strings, by Arrow, and prove that no row was lost.

Arrow reads fast but forgives: a stray quote swallows the rows up to the next one. Rows are therefore counted against
lines; where they differ, or Arrow gives up, the strict parser of Python reads the file again and names the line.
"""

import csv
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pyarrow.csv

from .dialects import BlockStream, Dialect, QuoteCount, TableFile, find_dialect
from .json_lines import BLOCK_BYTES
from .packed import UNPACKING_ERRORS


logger = logging.getLogger(__name__)

ENCODING_ADVICE = "Pass its `encoding` (`--encoding`), such as 'latin-1' or 'gbk'."


def read_delimited(file: TableFile, wanted: list[str]) -> tuple[pa.Table, Dialect]:
    """
    Reads some columns of a delimited file, as they are written.

    Args:
        file ([`~items.readers.dialects.TableFile`]):
            The file.
        wanted (`list[str]`):
            Names of columns; those that the file lacks are left out.

    Returns:
        `tuple[pyarrow.Table, Dialect]`: The columns as strings, and how the file is spelled.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: the file is damaged, in another encoding or of rows of different lengths; the message names the
        line.
    """
    dialect, wanted = _begin(file, wanted)
    if not wanted:
        return pa.table({}), dialect
    if dialect.quotes is None:
        return _read_and_find_quotes(dialect, wanted)
    return _read(dialect, wanted), dialect


def delimited_tables(file: TableFile, wanted: list[str]) -> Iterator[tuple[pa.Table, Dialect]]:
    """
    Yields what [`read_delimited`] returns, a block of lines at a time.

    Rows are counted against lines behind the last block: a row that was lost is an error there. Where quotes are to be
    found, the file is gone through once before the first block.
    """
    dialect, wanted = _begin(file, wanted)
    if not wanted:
        yield pa.table({}), dialect
        return
    if dialect.quotes is None:
        dialect = replace(dialect, quotes=_quotes_balance(dialect))
    blocks = BlockStream(dialect.blocks())
    rows = 0
    with _errors_that_name_lines(dialect, blocks):
        for batch in pyarrow.csv.open_csv(blocks, *_options(dialect, wanted)):
            rows += len(batch)
            yield pa.Table.from_batches([batch]), dialect
    _check_number(dialect, rows, blocks.lines)


def _begin(file: TableFile, wanted: list[str]) -> tuple[Dialect, list[str]]:
    """How a file is spelled as far as its first lines tell, and the wanted columns that it has."""
    try:
        dialect = find_dialect(file)
    except UNPACKING_ERRORS as error:
        raise ValueError(f"{file.path} is not whole ({error}). It is truncated: fetch it again.") from error
    except (UnicodeError, csv.Error) as error:
        raise ValueError(f"The first lines of {file.path} cannot be read: {error}. {ENCODING_ADVICE}") from error
    if not dialect.names:
        raise ValueError(f"Expected a table in {file.path}, but it is empty. Fetch or write it again.")
    repeated = [one for one in wanted if dialect.names.count(one) > 1]
    if repeated:
        raise ValueError(
            f"Expected each column once in {file.path}, but {repeated} repeat in {dialect.names}. Rename them."
        )
    return dialect, [one for one in wanted if one in dialect.names]


def _read_and_find_quotes(dialect: Dialect, wanted: list[str]) -> tuple[pa.Table, Dialect]:
    """Reads without quotes, and again with them if all balance and the columns add up."""
    without, within = replace(dialect, quotes=False), replace(dialect, quotes=True)
    count = QuoteCount(dialect.separator)
    try:
        table = _read(without, wanted, count)
    except ValueError:
        # A delimiter in a quoted cell, perhaps; Arrow may have stopped before the last quote.
        if not _quotes_balance(dialect):
            raise
        return _read(within, wanted), within
    if count.balance:
        try:
            return _read(within, wanted), within
        except ValueError:
            # Titles in quotes that go over the border of a column: those are no cells.
            pass
    return table, without


def _quotes_balance(dialect: Dialect) -> bool:
    """Whether the whole file can be read and every quote that opens a cell is closed in it."""
    count = QuoteCount(dialect.separator)
    try:
        for block in dialect.blocks():
            count.add(block)
    except (*UNPACKING_ERRORS, UnicodeError):
        return False
    return count.balance


def line_of(dialect: Dialect, row: int) -> int:
    """Returns the line on which a data row begins, counted from 1."""
    for number, (line, _) in enumerate(dialect.records(), start=-1 if dialect.has_header else 0):
        if number == row:
            return line
    raise IndexError(row)


def _read(dialect: Dialect, wanted: list[str], count: QuoteCount | None = None) -> pa.Table:
    blocks = BlockStream(dialect.blocks(), count)
    with _errors_that_name_lines(dialect, blocks):
        table = pyarrow.csv.read_csv(blocks, *_options(dialect, wanted))
    _check_number(dialect, len(table), blocks.lines)
    return table


def _options(
    dialect: Dialect, wanted: list[str]
) -> tuple[pyarrow.csv.ReadOptions, pyarrow.csv.ParseOptions, pyarrow.csv.ConvertOptions]:
    """How Arrow reads the columns as strings."""
    # Arrow wants each name once; of those that nobody asks for it does not matter which is which.
    names = [name if name in wanted else f"{number}" for number, name in enumerate(dialect.names)]
    return (
        pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            column_names=_unique(names, wanted),
            skip_rows_after_names=int(dialect.has_header),
        ),
        pyarrow.csv.ParseOptions(
            delimiter=dialect.separator,
            quote_char='"' if dialect.quotes else False,
            escape_char=dialect.escape or False,
            newlines_in_values=bool(dialect.quotes),
        ),
        pyarrow.csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.string()),
            strings_can_be_null=False,
        ),
    )


@contextmanager
def _errors_that_name_lines(dialect: Dialect, blocks: BlockStream) -> Iterator[None]:
    """Raises the errors of Arrow's reader as those of a file and a line."""
    try:
        yield
    except UNPACKING_ERRORS as error:
        raise ValueError(
            f"{dialect.path} is not whole: after line {blocks.lines} it cannot be unpacked ({error}). It is truncated "
            "or damaged: fetch it again."
        ) from error
    except (pa.ArrowInvalid, UnicodeError) as error:
        _raise_for_line(dialect)
        raise ValueError(
            f"{dialect.path} is not a table of columns separated by {dialect.delimiter!r}: {error}. Correct the file."
        ) from error


def _check_number(dialect: Dialect, read: int, lines: int) -> None:
    """Raises `ValueError` where Arrow read fewer rows than the file has."""
    if read + dialect.has_header == lines:
        return
    # Lines without a row: they are empty, or belong to cells in quotes, or such cells swallowed rows.
    rows = _raise_for_line(dialect)
    if rows != read + dialect.has_header:
        raise ValueError(
            f"Expected {rows:,} rows in {dialect.path}, but read {read + dialect.has_header:,}. "
            f"{_advice_on_quotes(dialect)}"
        )


def _unique(names: list[str], wanted: list[str]) -> list[str]:
    prefix = "_" * (1 + max(len(name) for name in wanted))
    return [name if name in wanted else prefix + name for name in names]


def _raise_for_line(dialect: Dialect) -> int:
    """Raises the error of the first line that is not a row of the table; returns the number of rows if all are."""
    rows, line, width = 0, 0, len(dialect.names)
    swallowed = []
    try:
        for line, row in dialect.records():
            rows += 1
            if any(_looks_like_rows(cell, dialect.separator, width) for cell in row):
                swallowed.append(line)
            if len(row) != width:
                whose = "header" if dialect.has_header else "list of names"
                raise ValueError(
                    f"{dialect.path} is not a table of columns separated by {dialect.delimiter!r}: line {line} has "
                    f"{len(row)}, the {whose} {width}. Correct the line. {_advice_on_quotes(dialect)}"
                )
            if any("\ufffd" in cell for cell in row):
                _check_text(dialect)
    except csv.Error as error:
        raise ValueError(
            f"{dialect.path} cannot be read after line {line}: the row that follows has a quote that does not end its "
            f"cell ({error}). Correct the row. {_advice_on_quotes(dialect)}"
        ) from error
    except UnicodeError as error:
        _check_text(dialect)
        raise ValueError(f"{dialect.path} is not in {dialect.encoding}: {error}. {ENCODING_ADVICE}") from error
    if swallowed:
        logger.warning(
            f"{len(swallowed):,} cells in quotes of {dialect.path} go on over lines that look like rows, first on "
            f"line {swallowed[0]}, and were read as one cell each. {_advice_on_quotes(dialect)}"
        )
    return rows


def _looks_like_rows(cell: str, separator: str, width: int) -> bool:
    """Whether all lines of a cell after its first have as many separators as a row."""
    later = cell.splitlines()[1:]
    return bool(later) and all(line.count(separator) == width - 1 for line in later)


def _check_text(dialect: Dialect) -> None:
    """Raises the error of the first line that is not in the encoding."""
    if dialect.encoding != "utf-8":
        return
    line = 1
    for block in dialect.blocks():
        for number, text in enumerate(block.split(b"\n"), start=line):
            try:
                text.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{dialect.path} is not a UTF-8 table: line {number} has {text[error.start : error.end]!r} in "
                    f"{text.decode('utf-8', 'replace')[:60]!r}. {ENCODING_ADVICE}"
                ) from error
        line += block.count(b"\n")


def _advice_on_quotes(dialect: Dialect) -> str:
    if dialect.quotes:
        return "If quotes are characters like any other in this file, pass `quotes=False` (`--quotes false`)."
    return "If cells stand in quotes, pass `quotes=True` (`--quotes true`)."
