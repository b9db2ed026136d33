"""Readers of sequences without times: text files of user and items (SASRec, S3-Rec, P5)."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from tsrec_hf.models.checking_tsrec import checks_types

from ..log import InteractionLog
from ..tidying import tidy
from .dialects import TableFile, open_text
from .packed import UNPACKING_ERRORS
from .table import Source, read_table


logger = logging.getLogger(__name__)


@checks_types
def load_sequences(
    path: str | Path,
    items: Source,
    item_columns: Mapping[str, str | list[str]] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    with_users: bool = True,
    item_offset: int = 0,
    untitled: Literal["drop", "keep"] = "keep",
    same_title: Literal["keep", "merge"] = "keep",
    repeats: Literal["keep", "first"] = "keep",
) -> InteractionLog:
    r"""
    Reads sequences of items from a text file, and the items from a table beside it; cleans both with [`~items.tidy`].

    A line is a user and one item, as SASRec writes them, or a user and all of the user's items, as S3-Rec and P5 do;
    lines of one user go on with the sequence. Positions stand in the place of times: split the log with
    [`leave_one_out_split`].

    Args:
        path (`str` or `Path`):
            The file, plain or gzipped.
        items (`datasets.Dataset`, `str`, `Path` or `TableFile`):
            One row per item, with the ids of the sequences, as [`load_table`] reads it.
        item_columns (`Mapping[str, str | list[str]]`, *optional*):
            Maps `item_id`, `title` and `description` to the table's column names, as in [`load_table`].
        delimiter (`str`, *optional*):
            What separates the ids of a line; white space by default.
        encoding (`str`, *optional*, defaults to `"utf-8"`):
            Encoding of the file.
        with_users (`bool`, *optional*, defaults to `True`):
            Whether a line begins with the user; else the number of the line, from 1, is the user.
        item_offset (`int`, *optional*, defaults to `0`):
            Added to the ids of the sequences, which must be numbers then: `-1` if they count from 1 and those of the
            table from 0.
        untitled, same_title, repeats (*optional*):
            Arguments of [`~items.tidy`], with its defaults but for `untitled="keep"`: published sequences are
            evaluated with all items.

    Returns:
        [`InteractionLog`]: `items` with the string columns `item_id`, `title` and `description`; `interactions` with
        `user_id`, `item_id` and `timestamp`, which is the position in the user's sequence, from 0.

    Raises:
        `FileNotFoundError`: a file is missing.
        `ValueError`: a line has no item, or a user twice in a file of whole sequences, or the ids of sequences and
        table are shifted against each other.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.items import load_sequences

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "toys.txt").write_text("1 7 8 9\n2 8 7\n")
    >>> _ = (folder / "toys.csv").write_text("item_id,title\n7,Glue\n8,Tape\n9,Saw\n")
    >>> log = load_sequences(folder / "toys.txt", folder / "toys.csv")
    >>> log.interactions[2]
    {'user_id': '1', 'item_id': '9', 'timestamp': 2.0}
    ```
    """
    catalogue, _ = read_table(items, "items", item_columns, ("item_id", "title"), ("description",))
    users, taken = _read_lines(Path(path), delimiter, encoding, with_users)
    if item_offset:
        taken = _shifted(taken, item_offset, path)
    check_ids(taken, catalogue, path, items)
    log = InteractionLog(catalogue, in_order(users, taken))
    return tidy(log, untitled=untitled, same_title=same_title, repeats=repeats)


def in_order(users: pa.Array, items: pa.Array) -> Dataset:
    """Makes interactions of users and items in order: the time of each is its position in the user's sequence."""
    codes = users.dictionary_encode().indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    begins = np.flatnonzero(np.diff(codes[order], prepend=-1))
    positions = np.empty(len(codes))
    positions[order] = np.arange(len(codes)) - np.repeat(begins, np.diff(begins, append=len(codes)))
    return Dataset(pa.table({"user_id": users, "item_id": items, "timestamp": positions}))


def _read_lines(path: Path, delimiter: str | None, encoding: str, with_users: bool) -> tuple[pa.Array, pa.Array]:
    users: list[str] = []
    counts: list[int] = []
    items: list[str] = []
    line_of: dict[str, int] = {}
    several = 0
    try:
        with open_text(path, encoding) as file:
            for number, line in enumerate(file, start=1):
                ids = [part.strip() for part in line.split(delimiter)] if delimiter else line.split()
                if not any(ids):
                    continue
                user, taken = (ids[0], ids[1:]) if with_users else (str(number), ids)
                if not taken or not all(ids):
                    raise ValueError(
                        f"Expected a user and at least one item in {path}, line {number}, but found "
                        f"{line.strip()[:80]!r}. Correct the line. If lines have no user, pass `with_users=False`; if "
                        "something else than white space separates the ids, pass it as `delimiter`."
                    )
                several = several or (number if len(taken) > 1 else 0)
                earlier = line_of.setdefault(user, number)
                if several and earlier != number:
                    raise ValueError(
                        f"Expected each user once in {path}, because line {several} has several items, but {user!r} "
                        f"begins lines {earlier} and {number}. If lines hold items alone, pass `with_users=False`; if "
                        "they have further columns, read the file with `load_table`."
                    )
                users.append(user)
                counts.append(len(taken))
                items += taken
    except UNPACKING_ERRORS as error:
        raise ValueError(f"{path} is not whole ({error}). It is truncated: fetch it again.") from error
    except UnicodeError as error:
        raise ValueError(f"{path} is not in {encoding}: {error}. Pass its `encoding`, such as 'latin-1'.") from error
    if not items:
        raise ValueError(f"Expected a user and items in each line of {path}, but it is empty. Fetch it again.")
    return pa.array(np.repeat(np.array(users, dtype=object), counts), pa.string()), pa.array(items, pa.string())


def _shifted(items: pa.Array, offset: int, path: str | Path) -> pa.Array:
    try:
        return pc.add(items.cast(pa.int64()), offset).cast(pa.string())
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"Expected numbers as item ids in {path}, because `item_offset={offset}` is added to them, but {error}. "
            "Leave it out."
        ) from error


def check_ids(taken: pa.Array, catalogue: Dataset, path: str | Path, items: Source) -> None:
    """
    Warns of interactions with items that the catalogue lacks.

    Refuses ids that count from 1 in one file and from 0 in the other: all items but one would be found, wrongly.
    """
    named = items.path if isinstance(items, TableFile) else items if isinstance(items, (str, Path)) else "`items`"
    known = _ids_of(catalogue)
    _check_offset(taken, known, path, named)
    unknown = taken.filter(pc.invert(pc.is_in(taken, value_set=known.combine_chunks())))
    if len(unknown):
        logger.warning(
            f"{len(unknown):,} of {len(taken):,} interactions of {path} ({len(unknown) / len(taken):.1%}) are left "
            f"out, because their items are not in {named}, such as {pc.unique(unknown)[:3].to_pylist()}."
        )


def _check_offset(taken: pa.Array, known: pa.ChunkedArray, path: str | Path, named: str | Path) -> None:
    try:
        mine, theirs = (pc.min_max(ids.cast(pa.int64())).as_py() for ids in (taken, known))
    except pa.ArrowInvalid:
        return
    offset = theirs["min"] - mine["min"]
    if abs(offset) == 1 and theirs["max"] - mine["max"] == offset:
        raise ValueError(
            f"Expected the same item ids in {path} and {named}, but the first has {mine['min']} to {mine['max']} and "
            f"the second {theirs['min']} to {theirs['max']}: one counts from 0, the other from 1, and every title "
            f"would be that of a neighbour. Add {offset} to the first's ids: for `load_sequences` pass "
            f"`item_offset={offset}` (`--item_offset {offset}`)."
        )


def _ids_of(catalogue: Dataset) -> pa.ChunkedArray:
    return catalogue.select_columns(["item_id"]).with_format("arrow")[:]["item_id"]
