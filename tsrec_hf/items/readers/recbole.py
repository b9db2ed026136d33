"""Reader of RecBole's atomic files: tab-separated tables whose headers carry types, such as `timestamp:float`."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from tsrec_hf.models.checking_tsrec import checks_types

from ..columns import require_columns
from ..log import InteractionLog
from .delimited import read_delimited
from .dialects import TableFile
from .values import join_texts


logger = logging.getLogger(__name__)

ARROW_TYPES = {
    "token": pa.string(),
    "token_seq": pa.list_(pa.string()),
    "float": pa.float64(),
    "float_seq": pa.list_(pa.float64()),
}
NUMBER = r"(?i)^-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$|^-?(?:nan|inf|infinity)$"


@checks_types
def load_recbole(
    path: str | Path,
    title_field: str | None = None,
    item_columns: Mapping[str, str | list[str]] | None = None,
    interaction_columns: Mapping[str, str | None] | None = None,
    encoding: str | None = None,
) -> InteractionLog:
    r"""
    Reads the atomic files `<name>.inter` and `<name>.item` of a RecBole data set.

    The reader drops no row and changes no text. Pass the result to [`~items.tidy`], which drops and counts repeated
    items, interactions with unknown items, without a time or below a `min_rating`, and to [`~items.k_core`].

    Fields of type `token` become strings, `float` becomes `float64`, and the `_seq` types become lists, split at
    spaces. A title or description of type `token_seq` stays one string. A `float` value that is empty or not a
    number, such as a price of `-`, becomes a missing value; one warning a file counts those that are not numbers.

    Args:
        path (`str` or `Path`):
            The folder, or the folder and the common name of its files: `dataset/ml-100k` or `dataset/ml-100k/ml-100k`.
        title_field (`str`, *optional*):
            Column of the item file that holds the title. Defaults to `title`, or else to the one column whose name
            ends in `title`.
        item_columns (`Mapping[str, str | list[str]]`, *optional*):
            Maps `item_id`, `title` and `description` to fields of other names, `{"title": "name"}`; a list joins
            several fields of text.
        interaction_columns (`Mapping[str, str | None]`, *optional*):
            Maps `user_id`, `item_id`, `timestamp` and `rating` to fields of other names. `{"timestamp": None}` says
            that there are no times and the rows are in order.
        encoding (`str`, *optional*):
            Encoding of the files, such as `latin-1`; UTF-8 by default.

    Returns:
        [`InteractionLog`]: `items` with the string columns `item_id`, `title` and `description` (empty if the file has
        none) and the file's other columns; `interactions` with `user_id` and `item_id` (strings), `timestamp`
        (`float64`) and the file's other columns, in file order.

    Raises:
        `FileNotFoundError`: one of the two files is missing.
        `ValueError`: a column is missing or of an unknown type, or a row is malformed.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf import load_recbole

    >>> folder = Path(tempfile.mkdtemp(), "toy")
    >>> folder.mkdir()
    >>> item_rows = "item_id:token\tmovie_title:token_seq\tclass:token_seq\n1\tToy Story\tAnimation Comedy\n"
    >>> _ = (folder / "toy.item").write_text(item_rows)
    >>> _ = (folder / "toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n196\t1\t881250949\n")
    >>> data = load_recbole(folder)
    >>> data.items[0]
    {'item_id': '1', 'title': 'Toy Story', 'description': '', 'class': ['Animation', 'Comedy']}
    >>> data.interactions[0]
    {'user_id': '196', 'item_id': '1', 'timestamp': 881250949.0}
    ```
    """
    prefix = _find_prefix(Path(path))
    item_path, inter_path = Path(f"{prefix}.item"), Path(f"{prefix}.inter")
    items = _read_items(item_path, title_field, dict(item_columns or {}), encoding)
    interactions = _read_interactions(inter_path, dict(interaction_columns or {}), encoding)
    return InteractionLog(Dataset(items), Dataset(interactions))


def _find_prefix(path: Path) -> Path:
    """Returns the path of the atomic files without their suffix, after checking that both exist."""
    if path.is_dir():
        names = sorted(file.stem for file in path.glob("*.inter"))
        if path.resolve().name in names:
            names = [path.resolve().name]
        if len(names) != 1:
            raise FileNotFoundError(
                f"Expected {path} to hold one `.inter` file, or one of the folder's name, but found "
                f"{names or 'none'}. Pass the folder and the name, such as `dataset/ml-100k/ml-100k`."
            )
        path = path / names[0]
    for suffix in (".inter", ".item"):
        if not Path(path.parent, path.name + suffix).is_file():
            raise FileNotFoundError(
                f"Expected the atomic files {path.name}.inter and {path.name}.item in {path.parent}, but "
                f"{path.name}{suffix} is missing. Pass the folder of the files, or the folder and their common name."
            )
    return path


def _read_header(path: Path, encoding: str | None) -> list[str]:
    """Reads the fields of the first line; wrong bytes are reported later, by the reader of the rows."""
    with path.open(encoding=encoding or "utf-8-sig", errors="replace") as file:
        return file.readline().rstrip("\r\n").split("\t")


def _read_atomic(path: Path, encoding: str | None, keep_text: tuple[str, ...] = ()) -> pa.Table:
    """Reads an atomic file; fields named in `keep_text` stay strings even if their type is a sequence."""
    header = _read_header(path, encoding)
    kinds = dict(field.rpartition(":")[::2] for field in header)
    malformed = [
        field for field in header if field.rpartition(":")[2] not in ARROW_TYPES or not field.rpartition(":")[0]
    ]
    if malformed or len(kinds) != len(header):
        raise ValueError(
            f"Expected the header of {path} to list distinct fields as `name:type`, separated by tabs, with the types "
            f"{list(ARROW_TYPES)}, but found {header}. Correct {malformed or 'the repeated names'}."
        )
    file = TableFile(path, delimiter="\t", encoding=encoding, names=list(kinds), header=True, quotes=False)
    table, _ = read_delimited(file, list(kinds))
    columns, not_numbers = {}, {}
    for name, kind in kinds.items():
        columns[name], count = _convert(table[name], "token" if name in keep_text else kind)
        if count:
            not_numbers[name] = count
    if not_numbers:
        counts = ", ".join(f"{count:,} of field {name!r}" for name, count in not_numbers.items())
        logger.warning(f"Some values of number fields of {path} are not numbers and became missing values: {counts}.")
    return pa.table(columns)


def _convert(column: pa.ChunkedArray, kind: str) -> tuple[pa.ChunkedArray, int]:
    """Converts a column of strings to its type; also returns how many values should be numbers and are not."""
    if kind == "token":
        return column, 0
    column = pc.utf8_trim_whitespace(column)
    if kind == "float":
        return _as_numbers(column)
    filled = pc.not_equal(column, "")
    parts = pc.if_else(filled, pc.utf8_split_whitespace(column), pa.scalar([], pa.list_(pa.string())))
    if kind == "token_seq":
        return parts, 0
    lists = parts.combine_chunks()
    numbers, count = _as_numbers(lists.values)
    return pa.chunked_array([pa.ListArray.from_arrays(lists.offsets, numbers)]), count


def _as_numbers(texts: pa.ChunkedArray | pa.Array) -> tuple[pa.ChunkedArray | pa.Array, int]:
    """Parses numbers; a value that is not one, such as a price of `-`, becomes missing and is counted."""
    texts = pc.replace_substring_regex(texts, r"^\+", "")
    is_number = pc.match_substring_regex(texts, NUMBER)
    not_numbers = pc.sum(pc.and_(pc.invert(is_number), pc.not_equal(texts, ""))).as_py() or 0
    return pc.if_else(is_number, texts, None).cast(pa.float64()), not_numbers


def _check_fields(table: pa.Table, expected: dict[str, str], path: Path) -> None:
    advice = 'Name the fields by `interaction_columns={"timestamp": ...}` (`--interaction_columns timestamp=...`)'
    if "timestamp" in expected:
        advice += "; `None` (`timestamp=none`) says that the rows are in order"
    require_columns(table.column_names, list(expected), str(path), f"{advice}.", "fields")
    for name, kind in expected.items():
        if table[name].type != ARROW_TYPES[kind]:
            raise ValueError(
                f"Expected field {name!r} of {path} to be of type `{kind}`, but it was read as `{table[name].type}`. "
                "Correct the type in the file's header."
            )


def _find_title(names: list[str], title_field: str | None, path: Path) -> str:
    if title_field is not None:
        candidates = [name for name in names if name == title_field]
    else:
        candidates = ["title"] if "title" in names else [name for name in names if name.endswith("title")]
    if len(candidates) != 1:
        expected = "one field whose name ends in 'title'" if title_field is None else f"the field {title_field!r}"
        raise ValueError(
            f"Expected {path} to have {expected}, but found {candidates or 'none'} among the fields {names}. Pass the "
            "name of the field that holds the title as `title_field` (`--item_columns title=...`)."
        )
    return candidates[0]


def _read_items(
    path: Path, title_field: str | None, columns: dict[str, str | list[str]], encoding: str | None
) -> pa.Table:
    names = [field.rpartition(":")[0] for field in _read_header(path, encoding)]
    title = columns.pop("title", None) or _find_title(names, title_field, path)
    given = {"item_id": "item_id", "title": title} | columns
    fields = {column: [field] if isinstance(field, str) else list(field) for column, field in given.items()}
    if "description" not in fields and "description" in names:
        fields["description"] = ["description"]
    used = [name for of_column in fields.values() for name in of_column]
    advice = 'Name our columns by `item_columns={"title": ...}` (`--item_columns title=...`).'
    require_columns(names, used, str(path), advice, "fields")
    [item_id], texts = fields.pop("item_id"), fields
    table = _read_atomic(path, encoding, keep_text=tuple(name for text in texts.values() for name in text))
    _check_fields(table, {item_id: "token"}, path)
    ours = {column: join_texts([table[name].cast(pa.string()) for name in text]) for column, text in texts.items()}
    description = ours.pop("description", None)
    if description is None:
        description = pa.array([""] * len(table), pa.string())
    first = {"item_id": table[item_id], "title": ours.pop("title"), "description": description}
    untitled = pc.sum(pc.equal(first["title"], "")).as_py()
    if untitled:
        logger.warning(
            f"{untitled} of {len(table)} items of {path} have no title: the model can only learn them by their SID."
        )
    further = {name: table[name] for name in table.column_names if name not in {*first, *ours, *used}}
    return pa.table(first | ours | further)


def _read_interactions(path: Path, columns: dict[str, str | None], encoding: str | None) -> pa.Table:
    fields = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"} | columns
    in_order = fields["timestamp"] is None
    table = _read_atomic(path, encoding)
    kinds = {"user_id": "token", "item_id": "token", "timestamp": "float"}
    expected = {name: kinds[column] for column in kinds if (name := fields[column]) is not None}
    _check_fields(table, expected, path)
    named = {column: name for column, name in fields.items() if name is not None}
    require_columns(table.column_names, list(named.values()), str(path), "Correct `interaction_columns`.", "fields")
    ours = {column: table[name] for column, name in named.items()}
    if in_order:
        ours["timestamp"] = pa.array(range(len(table)), pa.float64())
    first = {column: ours[column] for column in kinds}
    used = {*fields, *named.values()}
    return pa.table(first | ours | {name: table[name] for name in table.column_names if name not in used})
