"""Reader of Amazon Reviews 2014, 2018 and 2023: reviews and metadata as JSON lines, plain or gzipped."""

from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from tsrec_hf.models.checking_tsrec import checks_types

from ..log import InteractionLog, no_interactions
from ..tidying import tidy
from .json_lines import first_json_line, read_json_lines


class Version(NamedTuple):
    """Field names and unit of time of one release of the data; `earlier` has those of 2014 that 2018 renamed."""

    year: int
    reviews: dict[str, str]
    metadata: dict[str, str]
    ticks_per_second: int
    earlier: dict[str, str]


VERSIONS = (
    Version(
        year=2023,
        reviews={"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"},
        metadata={
            "item_id": "parent_asin",
            "title": "title",
            "description": "description",
            "features": "features",
            "brand": "store",
            "categories": "categories",
        },
        ticks_per_second=1000,
        earlier={},
    ),
    Version(
        year=2018,
        reviews={"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"},
        metadata={
            "item_id": "asin",
            "title": "title",
            "description": "description",
            "features": "feature",
            "brand": "brand",
            "categories": "category",
        },
        ticks_per_second=1,
        earlier={"categories": "categories"},
    ),
)
KINDS = {
    "user_id": "id",
    "item_id": "id",
    "timestamp": "number",
    "rating": "number",
    "title": "text",
    "description": "texts",
    "features": "texts",
    "brand": "text",
    "categories": "texts",
}
SEPARATORS = {"description": " ", "features": " ", "categories": ", "}
# Some pages of 2018 were scraped before they had loaded: their titles are the first lines of a script.
SCRIPT = "getTime()"


@checks_types
def load_amazon(
    reviews_path: str | Path | None,
    metadata_path: str | Path,
    untitled: Literal["drop", "keep"] = "drop",
    same_title: Literal["keep", "merge"] = "keep",
    repeats: Literal["first", "keep"] = "first",
    min_rating: float | None = None,
) -> InteractionLog:
    r"""
    Reads a category of Amazon Reviews 2014, 2018 or 2023 and cleans it with [`~items.tidy`].

    The version is recognised by the fields; 2014 has those of 2018. Its metadata may be as published, lines of Python
    literals (parsed, not executed, at some ten thousand lines a second), or converted to JSON. In 2023 the variants of
    a product share a `parent_asin`, which is used as item id. Files are read in blocks and only the needed fields are
    kept, so the texts of reviews do not fill the memory. Use [`load_table`] for the CSV files that hold ratings only.

    Args:
        reviews_path (`str` or `Path`):
            Reviews as JSON lines, plain or gzipped, such as `Toys_and_Games.json.gz` or `Toys_and_Games.jsonl.gz`;
            `None` to read only the products.
        metadata_path (`str` or `Path`):
            The products of the same category and version, such as `meta_Toys_and_Games.jsonl.gz`.
        untitled, same_title, repeats, min_rating (*optional*):
            Arguments of [`~items.tidy`], with its defaults but for `repeats="first"`: a user's first review of
            an item counts.

    Returns:
        [`InteractionLog`]: `items` with the string columns `item_id`, `title`, `description`, `features`, `brand` and
        `categories`; `interactions` with `user_id`, `item_id`, `timestamp` (seconds since 1970) and `rating`; and the
        `summary` of the rows kept and dropped.

    Raises:
        `FileNotFoundError`: a file is missing.
        `ValueError`: a file is of neither version, the files are of different versions, or a line is malformed.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.items import load_amazon

    >>> folder = Path(tempfile.mkdtemp())
    >>> review = '{"user_id": "AE2", "parent_asin": "B01", "rating": 5.0, "timestamp": 1588687728923}\n'
    >>> product = '{"parent_asin": "B01", "title": "Nuts &amp; bolts", "description": ["Steel."], "store": "Acme"}\n'
    >>> _ = (folder / "Toys.jsonl").write_text(review)
    >>> _ = (folder / "meta_Toys.jsonl").write_text(product)
    >>> log = load_amazon(folder / "Toys.jsonl", folder / "meta_Toys.jsonl")
    >>> log.items[0]["title"], log.items[0]["brand"]
    ('Nuts & bolts', 'Acme')
    >>> log.interactions[0]
    {'user_id': 'AE2', 'item_id': 'B01', 'timestamp': 1588687728.923, 'rating': 5.0}
    ```
    """
    version = None if reviews_path is None else _find_version(reviews_path, "reviews")
    other = _find_version(metadata_path, "metadata")
    if version not in (None, other):
        raise ValueError(
            f"Expected reviews and metadata of one version, but {reviews_path} is of {version.year} and "
            f"{metadata_path} of {other.year}, whose item ids differ. Pass two files of one version."
        )
    items = _read(metadata_path, other.metadata, other.earlier)
    scripts = pc.match_substring(items["title"], SCRIPT)
    items = items.set_column(items.column_names.index("title"), "title", pc.if_else(scripts, None, items["title"]))
    # Where there are reviews, both files are known to be of this version.
    interactions = no_interactions() if reviews_path is None else _read_reviews(reviews_path, other)
    log = InteractionLog(Dataset(items), interactions)
    return tidy(log, untitled=untitled, same_title=same_title, repeats=repeats, min_rating=min_rating)


def _find_version(path: str | Path, part: str) -> Version:
    found = first_json_line(path)
    for version in VERSIONS:
        if part == "reviews" and all(name in found for name in version.reviews.values()):
            return version
        # Any field of the metadata but the id may be missing. Reviews have that id too, and in 2023 a title of
        # their own, so only the absence of a user tells metadata from reviews.
        of_users = any(one.reviews["user_id"] in found for one in VERSIONS)
        if part == "metadata" and version.metadata["item_id"] in found and not of_users:
            return version
    expected = " or ".join(
        f"{list(version.reviews.values()) if part == 'reviews' else [version.metadata['item_id'], 'title']} "
        f"({version.year})"
        for version in VERSIONS
    )
    raise ValueError(
        f"Expected the {part} of Amazon Reviews in {path}, with the fields {expected}, but its first line has "
        f"{sorted(found)}. Check that it is the file of {part}; read other tables with `load_table`."
    )


def _read_reviews(path: str | Path, version: Version) -> Dataset:
    interactions = _read(path, version.reviews)
    seconds = pc.divide(interactions["timestamp"], float(version.ticks_per_second))
    return Dataset(interactions.set_column(interactions.column_names.index("timestamp"), "timestamp", seconds))


def _read(path: str | Path, name_of: dict[str, str], earlier: dict[str, str] | None = None) -> pa.Table:
    """Reads our columns of a file and joins lists of texts; cleaning them is left to `tidy`."""
    fields = [*name_of.items(), *(earlier or {}).items()]
    table = read_json_lines(path, {name: KINDS[column] for column, name in fields})
    columns = dict(zip(name_of, table.columns))
    for column, name in (earlier or {}).items():
        columns[column] = pc.coalesce(columns[column], table[name])
    for column in SEPARATORS.keys() & columns:
        columns[column] = pc.binary_join(columns[column], SEPARATORS[column])
    return pa.table(columns)
