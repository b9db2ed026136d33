"""
Read selected fields of JSON lines, plain or gzipped, into Arrow tables.

Arrow's reader parses blocks of whole lines, which is fast but needs one type a field. A block that it refuses (one
item has its description as a string, another as a list; an id is a number; a line is broken, or spells Python
literals) is parsed line by line in Python, which converts mixed types and names the line of an error.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from ..missing import SPELLINGS
from .packed import UNPACKING_ERRORS, open_plain_or_gzip


BLOCK_BYTES = 16 << 20
PYTHON_LITERAL = re.compile(rb"\s*\{\s*u?'")
GOODREADS_DATE = "%a %b %d %H:%M:%S %z %Y"
# Arrow type of each kind of field.
ARROW_TYPES = {
    "id": pa.string(),
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "number": pa.float64(),
    "time": pa.float64(),
}


def read_json_lines(path: str | Path, fields: Mapping[str, str]) -> pa.Table:
    r"""
    Reads some fields of a file of JSON lines.

    Fields that an object lacks are missing values; fields that are not asked for cost next to nothing.

    Args:
        path (`str` or `Path`):
            The file, plain or gzipped, whatever its name.
        fields (`Mapping[str, str]`):
            Name and kind of each field: `"id"` (a string, or an integer that becomes one), `"text"` (a string, or a
            list whose strings are joined), `"texts"` (a list of strings, or one string), `"number"`, or `"time"` (a
            number, or an ISO date, which becomes seconds since 1970).

    Returns:
        `pyarrow.Table`: The fields in the order of `fields`, as strings, lists of strings and `float64`.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: the file is truncated or empty, or a line is not an object with such fields; the message names
        file and line.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.items.readers.json_lines import read_json_lines

    >>> path = Path(tempfile.mkdtemp(), "items.jsonl")
    >>> _ = path.write_text('{"sku": "7", "about": ["Strong", "green"], "price": 3}\n{"sku": 8, "about": "A tape"}\n')
    >>> read_json_lines(path, {"sku": "id", "about": "texts"}).to_pylist()
    [{'sku': '7', 'about': ['Strong', 'green']}, {'sku': '8', 'about': ['A tape']}]
    ```
    """
    tables = list(json_line_tables(path, fields))
    if not sum(map(len, tables)):
        raise ValueError(f"Expected {path} to hold a JSON object in each line, but it is empty. Fetch it again.")
    return pa.concat_tables(tables)


def json_line_tables(path: str | Path, fields: Mapping[str, str]) -> Iterator[pa.Table]:
    """Yields what [`read_json_lines`] returns, a block of lines at a time."""
    schema = pa.schema([(name, ARROW_TYPES[kind]) for name, kind in fields.items()])
    for block, line in _blocks(path):
        yield _read_block(block, line, path, fields, schema)


def first_json_line(path: str | Path) -> dict[str, Any]:
    """Returns the first object of a file, whose fields identify the format."""
    for block, line in _blocks(path):
        for number, text in enumerate(block.split(b"\n"), start=line):
            if text.strip():
                return _parse_line(text, path, number)
    raise ValueError(f"Expected {path} to hold a JSON object in each line, but it is empty. Fetch it again.")


def _blocks(path: str | Path) -> Iterator[tuple[bytes, int]]:
    """Yields blocks of whole lines, each with the number of its first line."""
    line = 1
    with open_plain_or_gzip(path) as file:
        while True:
            try:
                block = file.read(BLOCK_BYTES) + file.readline()
            except UNPACKING_ERRORS as error:
                raise ValueError(
                    f"{path} cannot be unpacked after line {line - 1} ({error}). The file is truncated or damaged: "
                    "fetch it again."
                ) from error
            if not block:
                return
            yield block.removeprefix(b"\xef\xbb\xbf") if line == 1 else block, line
            line += block.count(b"\n")


def _read_block(block: bytes, line: int, path: str | Path, fields: Mapping[str, str], schema: pa.Schema) -> pa.Table:
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    # Arrow crashes on a line that begins with `null` (apache/arrow#47409) and accepts several objects on one line, so
    # it only gets blocks whose lines all begin with `{`.
    if block.startswith(b"{") + block.count(b"\n{") == lines:
        try:
            table = pyarrow.json.read_json(
                pa.BufferReader(block),
                parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            ).select(schema.names)
            # Arrow does not check UTF-8 while parsing.
            table.validate(full=True)
            if len(table) == lines and not any(_has_gap(column) for column in table.columns):
                return table
        except pa.ArrowInvalid:
            pass
    return _read_lines(block, line, path, fields, schema)


def _has_gap(column: pa.ChunkedArray) -> bool:
    """Tells whether a list contains a missing value, which `binary_join` cannot handle."""
    return pa.types.is_list(column.type) and pc.list_flatten(column).null_count > 0


def _read_lines(block: bytes, line: int, path: str | Path, fields: Mapping[str, str], schema: pa.Schema) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in fields}
    for number, text in enumerate(block.split(b"\n"), start=line):
        if not text.strip():
            continue
        entry = _parse_line(text, path, number)
        for name, kind in fields.items():
            columns[name].append(as_kind(entry.get(name), kind, name, f"{path}, line {number}"))
    return pa.table(columns, schema=schema)


def _parse_line(text: bytes, path: str | Path, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        entry = _parse_literal(text)
        if entry is None:
            found = shorten(text.decode("utf-8", errors="replace").strip())
            raise ValueError(
                f"Expected a JSON object in UTF-8 in {path}, line {number}, but found {found} ({error}). If it is the "
                "last line, the file is truncated: fetch it again."
            ) from error
    if not isinstance(entry, dict):
        raise ValueError(
            f"Expected a JSON object in {path}, line {number}, but found {shorten(json.dumps(entry))}. Write one "
            "object a line."
        )
    return entry


def _parse_literal(text: bytes) -> dict[str, Any] | None:
    """Parses a line that spells Python literals, as the metadata of Amazon 2014 and of Steam do; else `None`."""
    if not PYTHON_LITERAL.match(text):
        return None
    try:
        entry = ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def as_kind(value: Any, kind: str, name: str, where: str) -> Any:
    """Converts a JSON value to the Python value of its kind, or raises an error that says where it stands."""
    try:
        # NaN stands for a missing value in some files.
        return None if value is None or value != value else AS_KIND[kind](value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Expected field {name!r} of {where}, to be {EXPECTED[kind]}, but found {shorten(json.dumps(value))}. "
            "Correct it, or name another field."
        ) from error


def _as_id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError
    return _without_surrogates(str(value))


def _as_texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    flat = [part for one in values for part in (one if isinstance(one, list) else [one]) if part is not None]
    if any(isinstance(one, list) for one in values):
        # Amazon 2014 has the categories of an item as paths, which begin alike.
        flat = list(dict.fromkeys(flat)) if all(isinstance(part, str) for part in flat) else flat
    if not all(isinstance(part, (str, int, float)) for part in flat):
        raise TypeError
    return [_without_surrogates(str(part)) for part in flat]


def _as_text(value: Any) -> str:
    return " ".join(_as_texts(value))


def _as_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    return float(value)


def seconds_of(date: str) -> float:
    """Converts an ISO date, or one such as `Fri Aug 25 13:55:02 -0700 2017`, to seconds since 1970; UTC by default."""
    if date[3:4] == " ":
        return datetime.strptime(date, GOODREADS_DATE).timestamp()
    # Python also parses dates without hyphens and would misread some timestamps in milliseconds as such dates.
    if date[4:5] != "-":
        raise ValueError
    moment = datetime.fromisoformat(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _as_time(value: Any) -> float | None:
    if isinstance(value, str):
        return None if value.strip() in SPELLINGS else seconds_of(value)
    return _as_number(value)


def _without_surrogates(text: str) -> str:
    """Replaces lone surrogates (half an emoji in a truncated text), which are valid JSON but not valid UTF-8."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


AS_KIND: dict[str, Callable[[Any], Any]] = {
    "id": _as_id,
    "text": _as_text,
    "texts": _as_texts,
    "number": _as_number,
    "time": _as_time,
}
EXPECTED = {
    "id": "a string or an integer",
    "text": "a string or a list of strings",
    "texts": "a list of strings or a string",
    "number": "a number",
    "time": "a number or an ISO date such as 2024-05-31T12:00:00",
}


def shorten(text: str, width: int = 80) -> str:
    return repr(text if len(text) <= width else f"{text[:width]}...")
