"""Clean a raw log for training: plain texts, unique items, interactions with known items only."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from tsrec_hf.models.checking_tsrec import checks_types

from .cleaning import clean_text
from .columns import is_text, require_columns
from .log import InteractionLog
from .missing import blank_missing
from .summary import LogSummary


# Text columns of catalogues that readers know. Other columns, such as an image's path, are not touched: their strings
# need not be prose.
TEXT_COLUMNS = ("title", "description", "features", "brand", "categories")


@checks_types
def tidy(
    log: InteractionLog,
    untitled: Literal["drop", "keep"] = "drop",
    same_title: Literal["keep", "merge"] = "keep",
    repeats: Literal["keep", "first"] = "keep",
    min_rating: float | None = None,
) -> InteractionLog:
    r"""
    Cleans the texts of a log and drops unusable rows; the summary counts them by reason.

    The columns `title`, `description` and, where they hold strings, `features`, `brand` and `categories` become plain
    text ([`~items.clean_text`]); other columns are not changed. In all columns of text, white space, `NULL`, `null`,
    `nan`, `NaN`, `None`, `<NA>` and `\N` mean the same as an empty string: that there is no value. Of several rows
    with the same item id, the first one with a title is kept. Interactions without a user, item or time, with an item
    that is not (or no longer) in the catalogue, and exact duplicates are dropped. Items and interactions keep their
    order.

    Args:
        log ([`InteractionLog`]):
            The log of a reader, or of your own tables.
        untitled (`"drop"` or `"keep"`, *optional*, defaults to `"drop"`):
            Whether to drop items without a title, of which a language model knows nothing, and their interactions.
        same_title (`"keep"` or `"merge"`, *optional*, defaults to `"keep"`):
            `"merge"` replaces all items with the same title, ignoring case, by the first of them, also in the
            interactions. Items of equal text have equal embeddings, so their SIDs collide.
        repeats (`"keep"` or `"first"`, *optional*, defaults to `"keep"`):
            `"first"` keeps only a user's first interaction with an item, as is usual for reviews; `"keep"` is for logs
            of repeated consumption. Rows with the same user, item and time count once in either case.
        min_rating (`float`, *optional*):
            Minimum `rating` of an interaction; those without a rating are dropped too. By default ratings are ignored.

    Returns:
        [`InteractionLog`]: The tidy log, with a longer summary.

    Raises:
        `ValueError`: no item or interaction is left, an option is unknown, or `min_rating` is given without ratings.
        `TypeError`: `min_rating` is given and ratings are not numbers.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.items import InteractionLog, tidy

    >>> items = Dataset.from_dict(
    ...     {
    ...         "item_id": ["1", "2", "2"],
    ...         "title": ["Nut", "", "<b>Bolt</b>"],
    ...         "description": [None, "", "Steel &amp; zinc"],
    ...     }
    ... )
    >>> interactions = Dataset.from_dict(
    ...     {"user_id": ["ann", "ann", "bob"], "item_id": ["1", "1", "99"], "timestamp": [1.0, 1.0, 2.0]}
    ... )
    >>> log = tidy(InteractionLog(items, interactions))
    >>> log.items[1]
    {'item_id': '2', 'title': 'Bolt', 'description': 'Steel & zinc'}
    >>> print(log.summary)
    | stage | items | users | interactions |
    | --- | --- | --- | --- |
    | given | 3 | 2 | 3 |
    | 2 texts cleaned | 3 | 2 | 3 |
    | items without an id dropped | 3 | 2 | 3 |
    | repeated item ids dropped | 2 (-1) | 2 | 3 |
    | items without a title dropped | 2 | 2 | 3 |
    | 0 items with the title of another kept | 2 | 2 | 3 |
    | interactions without user, item or time dropped | 2 | 2 | 3 |
    | interactions with unknown items dropped | 2 | 1 (-1) | 2 (-1) |
    | repeated user, item and time dropped | 2 | 1 | 1 (-1) |
    ```
    """
    for name, value, allowed in (
        ("untitled", untitled, ("drop", "keep")),
        ("same_title", same_title, ("keep", "merge")),
        ("repeats", repeats, ("keep", "first")),
    ):
        if value not in allowed:
            raise ValueError(f"Expected `{name}` to be one of {allowed}, but found {value!r}.")
    items, interactions = log.tables()
    summary = log.summary

    (items, of_items), (interactions, of_interactions) = blank_missing(items), blank_missing(interactions)
    if of_items or of_interactions:
        spelled = f"{of_items + of_interactions:,} values such as NULL, nan or None taken as missing"
        summary = summary.add(spelled, items, interactions)
    changed = 0
    for name in TEXT_COLUMNS:
        if name not in items.column_names or not is_text(items[name].type):
            continue
        plain = clean_text(items[name])
        changed += pc.sum(pc.not_equal(plain, items[name])).as_py() or 0
        items = items.set_column(items.column_names.index(name), name, plain)
    summary = summary.add(f"{changed:,} texts cleaned", items, interactions)

    items = items.filter(_is_given(items["item_id"]))
    summary = summary.add("items without an id dropped", items, interactions)
    untitled_last = pc.equal(items["title"], "").to_numpy()
    items = items.filter(first_of_each(codes_of(items["item_id"]), untitled_last))
    summary = summary.add("repeated item ids dropped", items, interactions)
    if untitled == "drop":
        items = items.filter(pc.not_equal(items["title"], ""))
        summary = summary.add("items without a title dropped", items, interactions)
    first = first_titled(items["title"])
    if same_title == "merge":
        items, interactions = _merge(items, interactions, first)
        summary = summary.add("items of one title merged", items, interactions)
    else:
        later = np.count_nonzero(first != np.arange(len(items)))
        summary = summary.add(f"{later:,} items with the title of another kept", items, interactions)

    interactions = interactions.filter(is_complete(interactions))
    summary = summary.add("interactions without user, item or time dropped", items, interactions)
    if min_rating is not None:
        interactions = interactions.filter(is_rated(interactions, min_rating))
        summary = summary.add(f"interactions rated below {min_rating:g} dropped", items, interactions)
    known = pc.is_in(interactions["item_id"], value_set=items["item_id"].combine_chunks())
    interactions = interactions.filter(known)
    summary = summary.add("interactions with unknown items dropped", items, interactions)
    interactions = interactions.filter(first_of_each(_pairs(interactions), times_of(interactions), each_rank=True))
    summary = summary.add("repeated user, item and time dropped", items, interactions)
    if repeats == "first":
        interactions = interactions.filter(first_of_each(_pairs(interactions), times_of(interactions)))
        summary = summary.add("later interactions of user and item dropped", items, interactions)
    check_something_left(items, interactions, summary)
    return InteractionLog(Dataset(items), Dataset(interactions), summary)


def check_something_left(items: pa.Table, interactions: pa.Table, summary: LogSummary) -> None:
    # A catalogue alone came without interactions.
    if not len(items) or (not len(interactions) and summary.stages[0].interactions):
        raise ValueError(
            "Expected items and interactions to be left, but one of them is empty. Look where they went, and whether "
            f"both tables mean the same item ids:\n{summary}"
        )


def _is_given(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.not_equal(ids, ""), False)


def codes_of(column: pa.ChunkedArray) -> np.ndarray:
    """Encodes values as integers from 0 on, equal values as equal integers."""
    return column.dictionary_encode().combine_chunks().indices.to_numpy().astype(np.int64)


def _pairs(interactions: pa.Table) -> np.ndarray:
    """Encodes each pair of user and item as an integer."""
    items = codes_of(interactions["item_id"])
    return codes_of(interactions["user_id"]) * (items.max(initial=0) + 1) + items


def times_of(interactions: pa.Table) -> np.ndarray:
    """The times of interactions."""
    return interactions["timestamp"].to_numpy()


def first_of_each(codes: np.ndarray, ranks: np.ndarray, each_rank: bool = False) -> pa.Array:
    """
    Returns a mask that selects the row of lowest rank of each code; the first one of ties.

    `each_rank=True` selects one row of each pair of code and rank instead, which removes exact duplicates. After the
    stable sort by code and rank, the rows to select are those that differ from their predecessor.
    """
    order = np.lexsort((ranks, codes))
    codes, ranks = codes[order], ranks[order]
    new = np.diff(codes, prepend=-1) != 0
    if each_rank:
        new[1:] |= ranks[1:] != ranks[:-1]
    mask = np.zeros(len(order), dtype=bool)
    mask[order[new]] = True
    return pa.array(mask)


def first_titled(titles: pa.ChunkedArray) -> np.ndarray:
    """
    Returns for each item the position of the first item with its title, ignoring case.

    An item without a title gets its own position: empty titles say nothing about equality.
    """
    codes = codes_of(pc.utf8_lower(titles))
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    return np.where(pc.equal(titles, "").to_numpy(), np.arange(len(codes)), first[group])


def _merge(items: pa.Table, interactions: pa.Table, first: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """Keeps the first item of each title and assigns it the interactions of the others."""
    stays = pa.array(first == np.arange(len(items)))
    return items.filter(stays), merge_items(interactions, items["item_id"].combine_chunks(), first)


def merge_items(interactions: pa.Table, ids: pa.Array, first: np.ndarray) -> pa.Table:
    """Assigns interactions with an item to the first one of its title."""
    taken = interactions["item_id"].combine_chunks()
    # Interactions with unknown items stay as they are, for the stage that counts them.
    merged = pc.coalesce(ids.take(pa.array(first).take(pc.index_in(taken, value_set=ids))), taken)
    return interactions.set_column(interactions.column_names.index("item_id"), "item_id", merged)


def is_complete(interactions: pa.Table) -> pa.ChunkedArray:
    """Tells which interactions have a user, an item and a time."""
    time = interactions["timestamp"]
    timed = pc.is_finite(time) if pa.types.is_floating(time.type) else pc.is_valid(time)
    complete = pc.and_(_is_given(interactions["user_id"]), _is_given(interactions["item_id"]))
    return pc.and_(complete, pc.fill_null(timed, False))


def is_rated(interactions: pa.Table, min_rating: float) -> pa.ChunkedArray:
    """Tells which interactions are rated at least so."""
    advice = f"`min_rating={min_rating:g}` needs it: rename the column of ratings, or leave `min_rating` out."
    require_columns(interactions.column_names, ["rating"], "`interactions`", advice)
    kind = interactions["rating"].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise TypeError(
            f"Expected column 'rating' of `interactions` to hold numbers for `min_rating={min_rating:g}`, but found "
            f"{kind}. Convert it with `cast_column`."
        )
    return pc.fill_null(pc.greater_equal(interactions["rating"], min_rating), False)
