"""Reader of LC-Rec's layout: `X.inter.json`, `X.item.json` and `X.index.json`, the usual one of generative models."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.json_files_tsrec import read_json

from ..dataset import RecommendationDataset
from ..log import InteractionLog
from ..splits import leave_one_out_split
from ..tidying import tidy
from .json_documents import KEY
from .sequences import check_ids, in_order
from .table import Source, read_table


logger = logging.getLogger(__name__)

INTERACTIONS, ITEMS, INDEX = ".inter.json", ".item.json", ".index.json"
LAYOUT = f"X{INTERACTIONS}, X{ITEMS} and X{INDEX}"
# Where titles may stand if there is no `X.item.json`.
TABLES = ("items.csv", "items.tsv", "items.jsonl", "items.json", "items.parquet")
FIELDS = ("description", "brand", "categories")


class Files(NamedTuple):
    """The files of one data set; `sids` is `None` where there are none, or none were chosen."""

    name: str
    interactions: Path
    items: Path
    sids: Path | None


@checks_types
def load_lcrec(
    path: str | Path,
    items: Source | None = None,
    item_columns: Mapping[str, str | list[str]] | None = None,
    index_file: str | Path | None = None,
    max_history: int = 10,
) -> RecommendationDataset:
    r"""
    Reads a data set in LC-Rec's layout, split leave-one-out, with its published SIDs.

    The folder holds `X.inter.json` (user to item ids in order, without times), `X.item.json` (item id to `title`,
    `description`, `brand` and `categories`) and `X.index.json` (item id to SID tokens, on any number of levels). Of
    each user the last item is `test`, the one before it `valid`, the rest `train`. All items are kept, also those
    without a title, as the published protocol ranks all.

    Args:
        path (`str` or `Path`):
            The folder, the folder and the common name of its files (`data/Beauty/Beauty`), or a file of SIDs in it.
        items (`datasets.Dataset`, `str`, `Path` or `TableFile`, *optional*):
            A table of the items, as [`load_table`] reads it. By default `X.item.json`, or else `items.csv` (`.tsv`,
            `.jsonl`, `.parquet`) in the folder.
        item_columns (`Mapping[str, str | list[str]]`, *optional*):
            Where the fields have other names: `{"title": "name"}`.
        index_file (`str` or `Path`, *optional*):
            File of SIDs, in the folder or elsewhere. By default `X.index.json`, or else the only file
            `X.index.*.json`; of several none is taken, with a warning.
        max_history (`int`, *optional*, defaults to `10`):
            Maximum length of a history; longer ones are truncated to the latest items.

    Returns:
        [`RecommendationDataset`]: `items` with the columns `item_id`, `title`, `description` and, where they exist,
        `brand` and `categories`; the splits; `sid_index`, or `None` if there is no file of SIDs.

    Raises:
        `FileNotFoundError`: a file is missing. `ValueError`: a file is malformed, an item has no SID, or the ids of
        sequences and items are shifted against each other.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf import load_lcrec

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "Toy.inter.json").write_text('{"0": [0, 1, 1, 0]}')
    >>> _ = (folder / "Toy.item.json").write_text('{"0": {"title": "Nut"}, "1": {"title": "Bolt"}}')
    >>> _ = (folder / "Toy.index.json").write_text('{"0": ["<a_0>", "<b_1>"], "1": ["<a_0>", "<b_2>"]}')
    >>> dataset = load_lcrec(folder)
    >>> dataset
    RecommendationDataset(name='Toy', items=2, train=1, valid=1, test=1, sid_index=2 items on 2 levels)
    >>> dataset.test[0]
    {'user_id': '0', 'history': ['0', '1', '1'], 'target': '0'}
    ```
    """
    files = find_files(path, items, index_file)
    log = tidy(read_lcrec(path, items, item_columns), untitled="keep")
    dataset = log.split(leave_one_out_split, name=files.name, max_history=max_history)
    return dataset if files.sids is None else replace(dataset, sid_index=_read_index(files.sids, dataset.items))


def read_lcrec(
    path: str | Path,
    items: Source | None = None,
    item_columns: Mapping[str, str | list[str]] | None = None,
) -> InteractionLog:
    """
    Reads items and interactions of LC-Rec's layout as they are, for new SIDs; arguments as in [`load_lcrec`].

    Pass the result to [`~items.tidy`]. Positions stand in the place of times.
    """
    files = find_files(path, items, None, quiet=True)
    columns: dict[str, str | list[str] | None] = dict(item_columns or {})
    if items is None and files.items.name.endswith(ITEMS):
        columns = {"item_id": KEY, **columns}
    catalogue, _ = read_table(items or files.items, "items", columns, ("item_id", "title"), FIELDS)
    users, taken = _read_sequences(files.interactions)
    check_ids(taken, catalogue, files.interactions, items or files.items)
    return InteractionLog(catalogue, in_order(users, taken))


def is_lcrec(path: Path) -> bool:
    """Tells whether a path is LC-Rec's layout: a folder of it, the common name of its files, or a file of SIDs."""
    if path.is_dir():
        return any(path.glob(f"*{INTERACTIONS}"))
    return Path(f"{path}{INTERACTIONS}").is_file() or (path.is_file() and ".index." in path.name)


def find_files(path: str | Path, items: Source | None, index_file: str | Path | None, quiet: bool = False) -> Files:
    """Finds the files of a data set, and which of its files of SIDs to read."""
    path = Path(path)
    if path.is_file() and ".index." in path.name:
        index_file = index_file or path.resolve()
        path = path.with_name(path.name.split(".index.")[0])
    if path.is_dir():
        names = sorted(file.name.removesuffix(INTERACTIONS) for file in path.glob(f"*{INTERACTIONS}"))
        names = [path.resolve().name] if path.resolve().name in names else names
        if len(names) != 1:
            raise FileNotFoundError(
                f"Expected {LAYOUT} in {path}, but found {[name + INTERACTIONS for name in names] or 'none'}. Pass "
                "the folder and the name, such as `data/Beauty/Beauty`."
            )
        path = path / names[0]
    folder, name = path.parent, path.name
    interactions, catalogue = folder / f"{name}{INTERACTIONS}", folder / f"{name}{ITEMS}"
    if not interactions.is_file():
        raise FileNotFoundError(f"Expected {LAYOUT} in {folder}, but {interactions.name} is missing. Check the path.")
    tables = [folder / table for table in TABLES if (folder / table).is_file()]
    if items is None and not catalogue.is_file():
        if len(tables) != 1:
            found = [table.name for table in tables] or "none"
            raise FileNotFoundError(
                f"Expected {catalogue.name} in {folder}, or one table of titles of {list(TABLES)}, but found {found}. "
                "Pass a table with the columns `item_id` and `title` as `items` "
                f"(`--interactions_file {folder} --items_file ...`)."
            )
        [catalogue] = tables
    return Files(name, interactions, catalogue, _find_index(folder, name, index_file, quiet))


def _find_index(folder: Path, name: str, index_file: str | Path | None, quiet: bool) -> Path | None:
    if index_file is not None:
        index = folder / index_file  # an absolute path stays what it is
        if not index.is_file():
            names = sorted(path.name for path in folder.glob(f"{name}.index*.json"))
            raise FileNotFoundError(f"Expected SIDs at {index}, but there is no such file. Choose one of {names}.")
        return index
    if (folder / f"{name}{INDEX}").is_file():
        return folder / f"{name}{INDEX}"
    found = sorted(folder.glob(f"{name}.index.*.json"))
    if len(found) > 1 and not quiet:
        logger.warning(
            f"Found {len(found)} files of SIDs in {folder}, {[path.name for path in found]}: none is taken. Choose "
            "one by `index_file`, or pass its path in the place of the folder's."
        )
    return found[0] if len(found) == 1 else None


def _read_sequences(path: Path) -> tuple[pa.Array, pa.Array]:
    sequences: Any = read_json(path)
    if not isinstance(sequences, dict) or not sequences:
        raise ValueError(
            f'Expected an object of users and their items in order in {path}, such as {{"0": [3, 1, 2]}}, but found '
            f"{json.dumps(sequences)[:80]}."
        )
    for user, items in sequences.items():
        if not isinstance(items, list) or not all(type(item) in (int, str) for item in items):
            raise ValueError(
                f'Expected a list of item ids for every user of {path}, such as {{"0": [3, 1, 2]}}, but user {user!r} '
                f"has {json.dumps(items)[:80]}. Read logs with times with `load_table`."
            )
    counts = [len(items) for items in sequences.values()]
    users = pa.array(np.repeat(np.array(list(sequences), dtype=object), counts), pa.string())
    taken = pa.array([str(item) for items in sequences.values() for item in items], pa.string())
    if not len(taken):
        raise ValueError(f"Expected items in {path}, but every user's list is empty. Fetch it again.")
    return users, taken


def _read_index(path: Path, items: Dataset) -> SIDIndex:
    """Reads the SIDs of the items; SIDs of items that the catalogue lacks are left out."""
    index = SIDIndex.from_json(path)
    title_of = dict(zip(items["item_id"][:], items["title"][:]))
    known = [(item_id, codes) for item_id, codes in zip(index.item_ids, index.codes) if item_id in title_of]
    if len(known) < len(index):
        logger.warning(f"{len(index) - len(known):,} items of {path} are not in the catalogue and were left out.")
    if len(known) < len(title_of):
        without = sorted(set(title_of) - {item_id for item_id, _ in known})
        raise ValueError(
            f"Expected a SID for every item in {path}, but {len(without):,} have none, for example {without[0]!r}. "
            "Use the file that was made for these items."
        )
    ids = [item_id for item_id, _ in known]
    return SIDIndex(ids, np.stack([codes for _, codes in known]), index.tokens, [title_of[one] for one in ids])
