"""Reader and writer of MiniOneRec's folder layout: three CSV splits, `item.json` and `index.json`."""

import ast
import csv
import html
import json
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
from datasets import Dataset

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.json_files_tsrec import read_json
from tsrec_hf.models.replacing_tsrec import write_text

from ..columns import require_columns
from ..dataset import SPLITS, RecommendationDataset
from ..layout import FACTS_NAME


ITEM_FIELDS = ("title", "description", "brand", "categories")
# The title columns and the history's SIDs repeat what `item.json` and `index.json` say, so they are not read.
CSV_COLUMNS = ("user_id", "history_item_id", "item_id", "item_sid")
LAYOUT = "train.csv, valid.csv, test.csv, item.json and index.json"


@checks_types
def load_minionerec(path: str | Path) -> RecommendationDataset:
    r"""
    Reads a data set in MiniOneRec's layout.

    The folder holds `train.csv`, `valid.csv` and `test.csv` (one row a target, in time order, with at least the
    columns `user_id`, `history_item_id`, `item_id` and `item_sid`; histories are Python list literals), `item.json`
    (item id to `title`, `description`, `brand` and `categories`) and `index.json` (item id to SID tokens). Item ids
    become strings. HTML entities in texts are resolved, and descriptions that are Python list literals are joined. The
    SIDs in the CSV files must agree with `index.json`, which detects the index of another catalogue.

    Args:
        path (`str` or `Path`):
            The folder. Its name becomes the data set's.

    Returns:
        [`RecommendationDataset`]: `items` with the columns `item_id`, `title`, `description`, `brand` and `categories`
        in the order of `item.json`; the splits in the order of the files; `sid_index` with the titles of the items.

    Raises:
        `FileNotFoundError`: the folder or one of its files is missing.
        `ValueError`: a file is malformed, or two files contradict each other; the message names file and line.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf import load_minionerec

    >>> folder = Path(tempfile.mkdtemp(), "toy")
    >>> folder.mkdir()
    >>> _ = (folder / "item.json").write_text('{"7": {"title": "Nuts &amp; bolts"}, "8": {"title": "Tape"}}')
    >>> _ = (folder / "index.json").write_text('{"7": ["<a_0>", "<b_1>"], "8": ["<a_0>", "<b_2>"]}')
    >>> rows = "user_id,history_item_id,item_id,item_sid\nA1,[7],8,<a_0><b_2>\n"
    >>> for split in ("train", "valid", "test"):
    ...     _ = (folder / f"{split}.csv").write_text(rows)

    >>> dataset = load_minionerec(folder)
    >>> dataset
    RecommendationDataset(name='toy', items=2, train=1, valid=1, test=1, sid_index=2 items on 2 levels)
    >>> dataset.items[0]["title"], dataset.train[0]
    ('Nuts & bolts', {'user_id': 'A1', 'history': ['7'], 'target': '8'})
    ```
    """
    path = Path(path)
    files = {name: path / name for name in ("item.json", "index.json", *(f"{split}.csv" for split in SPLITS))}
    if not path.is_dir():
        raise FileNotFoundError(f"Expected a folder with {LAYOUT} at {path}, but there is none. Check the path.")
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected {LAYOUT} in {path}, but {', '.join(missing)} is missing. Copy it into the folder."
        )
    items = _read_items(files["item.json"])
    sid_index = SIDIndex.from_json(files["index.json"])
    sid_of = {item_id: sid_index.spell(codes) for item_id, codes in zip(sid_index.item_ids, sid_index.codes.tolist())}
    splits = {split: _read_split(files[f"{split}.csv"], sid_of) for split in SPLITS}
    title_of = dict(zip(items["item_id"][:], items["title"][:]))
    titles = [title_of.get(item_id, "") for item_id in sid_index.item_ids]
    sid_index = sid_index._replace(titles=titles)
    longest = max((len(history) for rows in splits.values() for history in rows["history"][:]), default=0)
    return RecommendationDataset(
        items=items,
        **splits,
        sid_index=sid_index,
        name=path.resolve().name,
        # The layout does not record the limit. MiniOneRec truncates at 10, which short histories do not show.
        max_history=max(10, longest),
    )


@checks_types
def save_minionerec(dataset: RecommendationDataset, path: str | Path) -> None:
    r"""
    Writes a data set in MiniOneRec's layout, the reverse of [`load_minionerec`].

    The columns `title`, `description`, `brand` and `categories` of the items are written if present. An empty split
    becomes a file with a header only.

    Args:
        dataset ([`RecommendationDataset`]):
            A data set with a SID index.
        path (`str` or `Path`):
            Folder to write to; it is created if missing. Its name becomes the name of the data set when it is read.

    Raises:
        `ValueError`: the data set has no SID index, or a row without a history, or the folder holds a data set in the
        native layout.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf.items import load_minionerec, save_minionerec

    >>> folder = tempfile.mkdtemp()
    >>> save_minionerec(dataset, folder)
    >>> load_minionerec(folder).test[0] == dataset.test[0]
    True
    ```
    """
    if dataset.sid_index is None:
        raise ValueError(
            "Expected a data set with a SID index, but found none. Make one with `SIDIndex(item_ids, codes)` and pass "
            "`dataclasses.replace(dataset, sid_index=...)`."
        )
    path = Path(path)
    if (path / FACTS_NAME).exists():
        raise ValueError(
            f"Expected {path} without a data set of `RecommendationDataset.save`, but found {FACTS_NAME} there, and "
            "one folder holds one SID index. Write to another folder."
        )
    fields = [field for field in ITEM_FIELDS if field in dataset.items.column_names]
    items = dataset.items.select_columns(["item_id", *fields]).to_dict()
    texts = zip(*([_escape(text or "") for text in items[field]] for field in fields))
    entries = {item_id: dict(zip(fields, entry)) for item_id, entry in zip(items["item_id"], texts)}
    index = dataset.sid_index
    sid_of = {item_id: index.spell(codes) for item_id, codes in zip(index.item_ids, index.codes.tolist())}
    frames = {split: _as_frame(getattr(dataset, split), split, sid_of) for split in SPLITS}

    write_text(path / "item.json", json.dumps(entries, ensure_ascii=False))
    index.to_json(path / "index.json")
    for split, frame in frames.items():
        write_text(path / f"{split}.csv", frame.to_csv(index=False))


def _as_frame(rows: Dataset, split: str, sid_of: dict[str, str]) -> pd.DataFrame:
    users, histories, targets = (rows[column][:] for column in ("user_id", "history", "target"))
    empty = [row for row, history in enumerate(histories) if not history]
    if empty:
        raise ValueError(
            f"Expected a history in every row of `{split}`, which the layout cannot do without, but {len(empty)} have "
            f"none, first row {empty[0]}. Drop these rows."
        )
    columns = [users, list(map(repr, histories)), targets, [sid_of[target] for target in targets]]
    return pd.DataFrame(dict(zip(CSV_COLUMNS, columns)), dtype=str)


def _escape(text: str) -> str:
    """Escapes entities and texts that look like a list, so that the reader returns the same text."""
    text = text.replace("&", "&amp;")
    return f"&#91;{text[1:]}" if text.startswith("[") else text


def _read_items(path: Path) -> Dataset:
    entries = read_json(path)
    if not isinstance(entries, dict) or not entries:
        raise ValueError(
            f'Expected {path} to hold an object such as {{"item id": {{"title": "..."}}}} with at least one item.'
        )
    untitled = [
        i for i, entry in entries.items() if not (isinstance(entry, dict) and isinstance(entry.get("title"), str))
    ]
    if untitled:
        raise ValueError(
            f"Expected a `title` for every item of {path}, but {len(untitled)} have none, for example item "
            f"{untitled[0]!r}. Add the titles or remove the items."
        )
    columns = {
        field: [_plain_text(entry.get(field), ", " if field == "categories" else " ") for entry in entries.values()]
        for field in ITEM_FIELDS
    }
    return Dataset.from_dict({"item_id": list(entries), **columns})


def _read_split(path: Path, sid_of: dict[str, str]) -> Dataset:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=lambda column: column in CSV_COLUMNS)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a whole CSV file ({error}). The file may be truncated: fetch or write it again."
        ) from error
    if not set(CSV_COLUMNS) <= set(frame.columns):
        found = pd.read_csv(path, dtype=str, nrows=0).columns.tolist()
        require_columns(found, CSV_COLUMNS, str(path), "Rename the columns or write the file again.")
    history = [_parse_history(literal, path, row) for row, literal in enumerate(frame["history_item_id"].tolist())]
    expected = frame["item_id"].map(sid_of)
    wrong = (expected != frame["item_sid"]).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        item_id, sid = frame["item_id"].iloc[row], frame["item_sid"].iloc[row]
        spelled = sid_of.get(item_id)
        raise ValueError(
            f"Expected `item_sid` to agree with index.json, but in {path}, line {_line_of(path, row)}, item "
            f"{item_id!r} has {sid!r}, where index.json has {'no such item' if spelled is None else repr(spelled)}; "
            f"{int(wrong.sum())} of {len(frame)} rows disagree. Use the index that was built for this catalogue."
        )
    columns = {
        "user_id": pa.array(frame["user_id"], pa.string()),
        "history": pa.array(history, pa.list_(pa.string())),
        "target": pa.array(frame["item_id"], pa.string()),
    }
    return Dataset(pa.table(columns))


def _parse_history(literal: str, path: Path, row: int) -> list[str]:
    try:
        history = ast.literal_eval(literal)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"Expected `history_item_id` to be a Python list such as [117, 118], but {path}, line "
            f"{_line_of(path, row)}, has {_shorten(literal)}. Correct the cell; the file may be truncated."
        ) from error
    if not isinstance(history, list) or not history or not all(type(item) in (int, str) for item in history):
        raise ValueError(
            f"Expected `history_item_id` to be a list of at least one item id, but {path}, line "
            f"{_line_of(path, row)}, has {_shorten(literal)}. Correct the cell or drop the row."
        )
    return [str(item) for item in history]


def _line_of(path: Path, row: int) -> int:
    """Returns the line on which a data row begins, by parsing the file: quoted cells may span several lines."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.reader(file)
        for _ in range(row + 1):
            next(reader)
        return reader.line_num + 1


def _shorten(text: str, width: int = 60) -> str:
    return repr(text if len(text) <= width else f"{text[:width]}...")


def _plain_text(value: str | list | float | None, separator: str) -> str:
    """Converts a field to one line: joins lists and list literals, resolves entities, collapses white space."""
    if not isinstance(value, (str, list)):
        return "" if value is None or value != value else str(value)  # NaN stands for a missing text in some files.
    if isinstance(value, str) and re.fullmatch(r"""\[\s*(['"].*['"]\s*)?\]""", value.strip(), re.DOTALL):
        value = _parse_list(value.strip())
    parts = [value] if isinstance(value, str) else [_plain_text(part, separator) for part in value]
    return " ".join(html.unescape(separator.join(part for part in parts if part)).split())


def _parse_list(text: str) -> list[str]:
    try:
        return [str(part) for part in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        # Some list literals were cleaned after they had been written and lost the backslashes before quotes.
        return re.split(r"""['"],\s*['"]""", text[1:-1].strip()[1:-1].replace("\\n", " "))
