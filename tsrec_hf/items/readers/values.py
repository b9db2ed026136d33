"""Convert columns of any table to the types of an `InteractionLog`; errors name file, column and line."""

import re
from collections.abc import Callable
from datetime import datetime, timezone

import pyarrow as pa
import pyarrow.compute as pc

from ..missing import is_missing
from .json_lines import seconds_of


NUMBER = r"(?i)^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$|^[+-]?(?:inf|infinity)$"
ISO_DATE = "2024-05-31T12:00:00"
USUAL_FORMATS = tuple(
    f"{day}{hour}"
    for day in (
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d.%m.%Y",
        "%d-%m-%Y",
        "%m-%d-%Y",
        "%Y/%m/%d",
        "%d %b %Y",
        "%b %d, %Y",
        "%d/%m/%y",
    )
    for hour in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
)
# Tells where in the file a row stands: "line 7".
Locate = Callable[[int], str]


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decodes dictionaries, large strings and string views to plain strings."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    return column.cast(pa.string()) if is_text or pa.types.is_null(column.type) else column


def as_ids(column: pa.ChunkedArray, name: str, locate: Locate, written: bool) -> pa.ChunkedArray:
    """Casts integers to strings."""
    if pa.types.is_string(column.type) or pa.types.is_integer(column.type):
        return column.cast(pa.string())
    raise TypeError(
        f"Expected {name} to hold strings or integers, but found {column.type}. Convert it; in pandas a missing value "
        'turns integers into floats, which `astype("Int64")` undoes.'
    )


def as_text(column: pa.ChunkedArray, name: str, locate: Locate, written: bool) -> pa.ChunkedArray:
    """Joins lists of strings, also lists of such lists."""
    if pa.types.is_string(column.type) or pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        texts = [_flat(value) for value in column.to_pylist()]
        if all(isinstance(part, str) for parts in texts for part in parts):
            return pa.chunked_array([[" ".join(parts) for parts in texts]], pa.string())
    raise TypeError(
        f"Expected {name} to hold strings or lists of strings, but found {column.type}. Convert it, or name another "
        "column."
    )


def _flat(value: list | None) -> list:
    parts = [part for one in value or () for part in (one if isinstance(one, list) else [one])]
    return [part for part in parts if part is not None and part != ""]


def join_texts(texts: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Joins texts of several columns, row by row, past those that are missing or empty."""
    # `binary_join_element_wise(null_handling="skip")` loses the rows in which all are null (pyarrow 26).
    joined, *others = [pc.fill_null(text, "") for text in texts]
    for other in others:
        both = pc.binary_join_element_wise(joined, other, " ")
        joined = pc.if_else(pc.equal(joined, ""), other, pc.if_else(pc.equal(other, ""), joined, both))
    return joined


def as_numbers(column: pa.ChunkedArray, name: str, locate: Locate, written: bool) -> pa.ChunkedArray:
    """Casts to `float64`; `written` says that strings are numbers as a text file spells them."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        # Nanoseconds since 1970 have more digits than a float; their order is what matters.
        return column.cast(pa.float64(), safe=False)
    if pa.types.is_string(kind) and column.null_count == len(column):
        return column.cast(pa.float64())
    if written and pa.types.is_string(kind):
        numbers = _parsed(column)
        if numbers is not None:
            return numbers
    if pa.types.is_string(kind):
        texts = _without_missing(column)
        wrong = pc.index(pc.match_substring_regex(texts, NUMBER), False).as_py()
        if wrong >= 0:
            raise ValueError(
                f"Expected {name} to hold numbers, but {locate(wrong)} has {texts[wrong].as_py()!r}. Correct the "
                "value, or name another column."
            )
    raise TypeError(f"Expected {name} to hold numbers, but found {_type_and_value(column)}. Correct the values.")


def _parsed(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Parses numbers as text files spell them; `None` if a value is neither a number nor missing."""
    for prepare in (
        lambda column: column,
        lambda column: pc.replace_substring_regex(_without_missing(column), r"^\+", ""),
    ):
        try:
            numbers = prepare(texts).cast(pa.float64())
        except pa.ArrowInvalid:
            continue
        # A spelling of a missing value that Arrow takes for a number.
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    return None


def as_seconds(column: pa.ChunkedArray, name: str, locate: Locate, written: bool) -> pa.ChunkedArray:
    """Converts dates to seconds since 1970; numbers keep their unit."""
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        return pc.divide(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return as_numbers(column, name, locate, written)
    numbers = _parsed(column) if written else None
    if numbers is not None:
        return numbers
    texts = _without_missing(column)
    try:
        # Of Arrow's own forms, "2024" and "202405" could be numbers.
        if pc.all(pc.match_substring_regex(texts, r"^\d{4}-\d\d-\d\d")).as_py():
            return as_seconds(texts.cast(pa.timestamp("us")), name, locate, written)
    except pa.ArrowInvalid:
        pass
    seconds: list[float | None] = []
    wrong: tuple[int, str, ValueError] | None = None
    for row, date in enumerate(texts.to_pylist()):
        try:
            seconds.append(None if date is None else seconds_of(date))
        except ValueError as error:
            # Among numbers the word is wrong, among dates the number.
            wrong = wrong or (row, date, error)
            if not re.match(NUMBER, date):
                wrong = row, date, error
                break
    if wrong is not None:
        row, date, cause = wrong
        fitting = formats_of(texts)
        advice = f" All fit {' and '.join(map(repr, fitting))}." if fitting else ""
        raise ValueError(
            f"Expected {name} to hold numbers or ISO dates such as {ISO_DATE}, but {locate(row)} has {date!r}. "
            f"Correct the value, or say how dates are written by `timestamp_format` (`--timestamp_format`).{advice}"
        ) from cause
    return pa.chunked_array([seconds], pa.float64())


def formats_of(texts: pa.ChunkedArray, most: int = 2000) -> list[str]:
    """Usual patterns of dates that fit the first of some texts; two where days and months cannot be told apart."""
    dates = pc.unique(texts).drop_null()[:most].to_pylist()
    return [pattern for pattern in USUAL_FORMATS if dates and all(_fits(date, pattern) for date in dates)]


def _fits(date: str, pattern: str) -> bool:
    try:
        datetime.strptime(date, pattern)
    except ValueError:
        return False
    return True


def as_formatted_seconds(column: pa.ChunkedArray, name: str, locate: Locate, pattern: str) -> pa.ChunkedArray:
    """Converts dates that are written by a pattern of `strptime` to seconds since 1970; UTC by default."""
    if not pa.types.is_string(column.type):
        return as_seconds(column, name, locate, written=False)
    texts = _without_missing(column)
    distinct = pc.unique(texts).drop_null()
    seconds = []
    for date in distinct.to_pylist():
        try:
            moment = datetime.strptime(date, pattern)
        except ValueError as error:
            wrong = pc.index(texts, date).as_py()
            raise ValueError(
                f"Expected {name} to hold dates such as {datetime(2024, 5, 31, 12).strftime(pattern)!r}, as "
                f"{pattern!r} (`--timestamp_format`) has them, but {locate(wrong)} has {date!r}. Correct the value or "
                "the format."
            ) from error
        seconds.append((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp())
    return pa.chunked_array(
        [pa.array(seconds, pa.float64()).take(pc.index_in(texts, value_set=distinct).combine_chunks())]
    )


def _without_missing(column: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = pc.utf8_trim_whitespace(column)
    return pc.if_else(is_missing(texts), pa.scalar(None, pa.string()), texts)


def _type_and_value(column: pa.ChunkedArray) -> str:
    return f"{column.type} such as {column.drop_null()[0].as_py()!r}"


CONVERTERS = {"id": as_ids, "text": as_text, "number": as_numbers, "time": as_seconds}
