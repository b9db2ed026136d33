"""Check the columns of tables: presence, types and missing values. All rooms of data use this checker."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset


ARROW_TYPES = {"a string": pa.string(), "a list of strings": pa.list_(pa.string())}
RENAME = "Rename your columns with `rename_column`."


def require_columns(
    found: Iterable[str], required: Sequence[str], where: str, advice: str = RENAME, noun: str = "columns"
) -> None:
    """Raises `ValueError` if a required column is missing."""
    found = list(found)
    missing = [column for column in required if column not in found]
    if missing:
        raise ValueError(
            f"Expected {where} to have the {noun} {list(required)}, but {missing} are missing from {found}. {advice}"
        )


def arrow_table(dataset: Dataset, name: str, required: Sequence[str], advice: str = RENAME) -> pa.Table:
    """Converts a `Dataset` to an Arrow table, after checking that it has the required columns."""
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"Expected `{name}` to be a `datasets.Dataset`, but found `{type(dataset).__name__}`. Build one with "
            "`datasets.Dataset.from_dict` or `datasets.Dataset.from_pandas`."
        )
    require_columns(dataset.column_names, required, f"`{name}`", advice)
    # The Arrow format applies a pending `select` or `filter`, which the underlying table would not show.
    return dataset.with_format("arrow")[:]


def checked_columns(dataset: Dataset, name: str, kinds: dict[str, str]) -> dict[str, pa.Array]:
    """
    Returns columns as Arrow arrays, after checking that they exist, have the given kinds and no missing values.

    Kinds are `"a string"`, `"a list of strings"` and `"a time"`, which is a number or a date.
    """
    if isinstance(dataset, Dataset):
        require_columns(dataset.column_names, list(kinds), f"`{name}`")
        dataset = dataset.select_columns(list(kinds))
    table = arrow_table(dataset, name, list(kinds))
    return {column: _checked(table[column].combine_chunks(), column, name, kind) for column, kind in kinds.items()}


def is_text(kind: pa.DataType) -> bool:
    """Tells whether a type is `string` or `large_string`."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _checked(array: pa.Array, column: str, name: str, kind: str) -> pa.Array:
    # A table without rows may have columns of type `null`, which are cast to the expected type.
    if len(array) == 0:
        return array.cast(ARROW_TYPES[kind]) if kind in ARROW_TYPES else array
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if kind == "a time":
        if is_text(array.type) or is_list:
            raise TypeError(
                f"Expected column {column!r} of `{name}` to hold numbers or dates, but found {array.type}. Convert "
                "them first."
            )
    elif not is_text(array.type.value_type if is_list else array.type) or is_list != (kind == "a list of strings"):
        raise TypeError(
            f"Expected column {column!r} of `{name}` to be {kind}, but found {array.type}. Ids are strings "
            "everywhere: convert them with `cast_column`."
        )
    absent = pc.sum(pc.is_null(array, nan_is_null=True)).as_py()
    absent += pc.list_flatten(array).null_count if is_list else 0
    if absent:
        raise ValueError(
            f"Expected column {column!r} of `{name}` without missing values, but found {absent} of them. Drop or fill "
            "these rows."
        )
    return array if kind == "a time" else array.cast(ARROW_TYPES[kind])
