"""Reader of RecBole's atomic files: tab-separated tables whose headers carry types, such as `timestamp:float`."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from datasets import Dataset

from ..columns import require_columns
from ..log import InteractionLog


logger = logging.getLogger(__name__)

ARROW_TYPES = {
    "token": pa.string(),
    "token_seq": pa.list_(pa.string()),
    "float": pa.float64(),
    "float_seq": pa.list_(pa.float64()),
}
NUMBER = r"(?i)^-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$|^-?(?:nan|inf|infinity)$"


def load_recbole(path: str | Path, title_field: str | None = None) -> InteractionLog:
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
    items = _read_items(item_path, title_field)
    interactions = _read_interactions(inter_path)
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


def _read_header(path: Path) -> list[str]:
    """Reads the fields of the first line; invalid UTF-8 is reported later, by the reader of the rows."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline().rstrip("\r\n").split("\t")


def _read_atomic(path: Path, keep_text: tuple[str, ...] = ()) -> pa.Table:
    """Reads an atomic file; fields named in `keep_text` stay strings even if their type is a sequence."""
    header = _read_header(path)
    kinds = dict(field.rpartition(":")[::2] for field in header)
    malformed = [
        field for field in header if field.rpartition(":")[2] not in ARROW_TYPES or not field.rpartition(":")[0]
    ]
    if malformed or len(kinds) != len(header):
        raise ValueError(
            f"Expected the header of {path} to list distinct fields as `name:type`, separated by tabs, with the types "
            f"{list(ARROW_TYPES)}, but found {header}. Correct {malformed or 'the repeated names'}."
        )
    try:
        table = pyarrow.csv.read_csv(
            path,
            # One thread, for errors that name the row.
            pyarrow.csv.ReadOptions(skip_rows=1, column_names=list(kinds), use_threads=False),
            pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(kinds, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not a UTF-8 table of {len(kinds)} tab-separated columns: {error}. Correct the row, or convert "
            "the file with `iconv -f latin1 -t utf-8`."
        ) from error
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
    require_columns(table.column_names, list(expected), str(path), "Rename the fields in the file's header.", "fields")
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
            "name of the field that holds the title as `title_field`."
        )
    return candidates[0]


def _read_items(path: Path, title_field: str | None) -> pa.Table:
    names = [field.rpartition(":")[0] for field in _read_header(path)]
    title_field = _find_title(names, title_field, path)
    table = _read_atomic(path, keep_text=(title_field, "description"))
    _check_fields(table, {"item_id": "token"}, path)
    description = table["description"] if "description" in names else pa.array([""] * len(table), pa.string())
    columns = {"item_id": table["item_id"], "title": table[title_field], "description": description}
    untitled = pc.sum(pc.equal(columns["title"], "")).as_py()
    if untitled:
        logger.warning(
            f"{untitled} of {len(table)} items of {path} have no title: the model can only learn them by their SID."
        )
    taken = {*columns, title_field}
    return pa.table(columns | {name: table[name] for name in names if name not in taken})


def _read_interactions(path: Path) -> pa.Table:
    required = {"user_id": "token", "item_id": "token", "timestamp": "float"}
    table = _read_atomic(path)
    _check_fields(table, required, path)
    return table.select([*required, *(name for name in table.column_names if name not in required)])
