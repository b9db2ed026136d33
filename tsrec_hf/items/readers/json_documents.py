"""Read a file that is one JSON document: an array of objects, objects by their ids, or columns."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from .json_lines import ARROW_TYPES, BLOCK_BYTES, as_kind, shorten
from .packed import UNPACKING_ERRORS, open_plain_or_gzip


# The column of the keys, in a document such as {"B01": {"title": ...}}.
KEY = "key"


def is_document(path: str | Path) -> bool:
    """Tells one JSON document, as an array or over several lines, from JSON lines."""
    first, further = b"", False
    with open_plain_or_gzip(path) as file:
        try:
            for line in file:
                if first and line.strip():
                    further = True
                    break
                first = first or line.removeprefix(b"\xef\xbb\xbf").strip()
        except UNPACKING_ERRORS:
            return False
    if not first.startswith(b"{") or first == b"{":
        return first.startswith((b"[", b"{"))
    try:
        entry = json.loads(first)
    except (ValueError, RecursionError):
        # `{"7": {` goes on; `{'asin': '7'}` is a line of Python literals.
        return first.endswith((b",", b"{", b"["))
    # One object by itself: a row, unless all that it holds are rows or columns.
    return not further and bool(entry) and all(isinstance(value, (dict, list)) for value in entry.values())


def read_document(path: str | Path, kinds: Mapping[str, str]) -> tuple[pa.Table, list[str]]:
    r"""
    Reads some fields of the objects of one JSON document.

    The document is an array of objects, an object whose one value is such an array, an object of objects, whose keys
    become the column `key`, or an object of columns (what `DataFrame.to_json` writes).

    Args:
        path (`str` or `Path`):
            The file, plain or gzipped.
        kinds (`Mapping[str, str]`):
            Name and kind of each field, as `read_json_lines` has them.

    Returns:
        `tuple[pyarrow.Table, list[str]]`: The fields that occur, and the names of all fields.

    Raises:
        `ValueError`: the file is no such document, or a field is of another kind; the message names line or entry.
    """
    document = _parse(path)
    entries = dict(_entries(document, kinds, path))
    names = list(dict.fromkeys(name for entry in entries.values() for name in entry))
    if not entries or not names:
        raise ValueError(f"Expected objects with fields in {path}, but it has none. Fetch or write it again.")
    columns = {}
    for name, kind in kinds.items():
        if name in names:
            values = [as_kind(entry.get(name), kind, name, f"{path}, {label}") for label, entry in entries.items()]
            columns[name] = pa.array(values, ARROW_TYPES[kind])
    return pa.table(columns), names


def _parse(path: str | Path) -> Any:
    with open_plain_or_gzip(path) as file:
        try:
            text = b"".join(iter(lambda: file.read(BLOCK_BYTES), b"")).decode("utf-8-sig")
            return json.loads(text)
        except UNPACKING_ERRORS as error:
            raise ValueError(f"{path} cannot be unpacked ({error}). It is truncated: fetch it again.") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not in UTF-8 ({error}). Convert it with `iconv`.") from error
        except (json.JSONDecodeError, RecursionError) as error:
            line = getattr(error, "lineno", 1)
            raise ValueError(
                f"Expected one JSON document in {path}, because its first line is not a whole object, but line {line} "
                f"cannot be read ({error}). Write one object a line, or one array of objects; if it is the last line, "
                "the file is truncated: fetch it again."
            ) from error


def _entries(document: Any, kinds: Mapping[str, str], path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a document, each with what names it in messages."""
    if isinstance(document, dict) and any(name in document for name in kinds):
        yield from _rows_of_columns(document, path)
        return
    if isinstance(document, dict) and len(document) == 1 and isinstance(next(iter(document.values())), list):
        [document] = document.values()
    if isinstance(document, list):
        named = ((f"entry {number}", entry) for number, entry in enumerate(document, start=1))
    elif isinstance(document, dict):
        named = (
            (f"entry {key!r}", entry | {KEY: key} if isinstance(entry, dict) else entry)
            for key, entry in document.items()
        )
    else:
        raise ValueError(f"Expected an array or an object in {path}, but found {shorten(json.dumps(document))}.")
    for label, entry in named:
        if not isinstance(entry, dict):
            raise ValueError(
                f"Expected an object in {path}, {label}, but found {shorten(json.dumps(entry))}. Write objects with "
                "named fields; sequences of item ids are read by `load_lcrec` and `load_sequences`."
            )
        yield label, entry


def _rows_of_columns(document: dict[str, Any], path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    columns = {
        name: {str(row): value for row, value in enumerate(values)} if isinstance(values, list) else values
        for name, values in document.items()
    }
    lengths = {name: len(values) if isinstance(values, dict) else None for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise ValueError(f"Expected columns of one length in {path}, but found {lengths}. Write the file again.")
    (first, rows), *others = columns.items()
    for name, values in others:
        if values.keys() != rows.keys():
            strange = shorten(json.dumps(sorted(values.keys() ^ rows.keys())))
            raise ValueError(
                f"Expected columns of the same keys in {path}, but {strange} are keys of either {first!r} or {name!r} "
                "alone. Write the file again."
            )
    for number, key in enumerate(rows, start=1):
        yield f"row {number}", {name: values[key] for name, values in columns.items()}
