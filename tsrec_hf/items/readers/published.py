"""Published data sets by name: which files of a folder are read, and how; `docs/data.md` has the table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from tsrec_hf.models.checking_tsrec import checks_types

from ..log import InteractionLog
from ..tidying import tidy
from .dialects import TableFile
from .packed import open_plain_or_gzip
from .table import Filters, filtered, read_table


Columns = Mapping[str, str | list[str] | None]
ML_100K_ITEM = ["movie id", "movie title", "release date", "video release date", "IMDb URL"]
ML_100K_ITEM += [f"genre {number}" for number in range(19)]
TAOBAO = ["user_id", "item_id", "category_id", "behavior", "timestamp"]
LASTFM_1K = ["userid", "timestamp", "artid", "artname", "traid", "traname"]
MIND_NEWS = ["id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"]
MIND_BEHAVIORS = ["impression", "user", "time", "history", "impressions"]


@dataclass(frozen=True)
class Part:
    """
    A table of a data set: patterns of its file names, of which the first that fits counts, and how it is read.

    `title` is a pattern such as `"category {}"` for data without texts; `filters` select rows of the file; `as_log`
    makes interactions of a table that has another form.
    """

    files: tuple[str, ...]
    columns: Columns
    options: dict[str, Any] = field(default_factory=dict)
    filters: Filters = field(default_factory=dict)
    title: str = "{}"
    as_log: Callable[[Dataset], Dataset] | None = None

    def find(self, folder: Path) -> list[Path]:
        for pattern in self.files:
            for name in (pattern, f"{pattern}.gz"):
                if found := sorted(folder.glob(name)):
                    return found
        return []


@dataclass(frozen=True)
class Variant:
    """Two tables that belong together."""

    interactions: Part
    items: Part


def _mind_clicks(behaviors: Dataset) -> Dataset:
    """One row for each news that was clicked of those shown; the column of earlier clicks has no times."""
    table = behaviors.with_format("arrow")[:]
    shown = pc.utf8_split_whitespace(table["shown"]).combine_chunks()
    rows, news = pc.list_parent_indices(shown), pc.list_flatten(shown)
    clicked = pc.ends_with(news, "-1")
    rows, news = rows.filter(clicked), news.filter(clicked)
    times = pc.strptime(table["time"].combine_chunks(), format="%m/%d/%Y %I:%M:%S %p", unit="s")
    columns = {
        "user_id": table["user_id"].combine_chunks().take(rows),
        "item_id": pc.utf8_slice_codeunits(news, 0, -2),
        "timestamp": times.cast(pa.int64()).cast(pa.float64()).take(rows),
    }
    return Dataset(pa.table(columns))


def _columns(user: str, item: str, time: str | None, rating: str | None = None) -> Columns:
    return {"user_id": user, "item_id": item, "timestamp": time} | ({"rating": rating} if rating else {})


def _texts(item: str, title: str, *description: str) -> Columns:
    return {"item_id": item, "title": title} | ({"description": list(description)} if description else {})


MOVIELENS_NAMES = ["user_id", "item_id", "rating", "timestamp"]
PUBLISHED: dict[str, tuple[Variant, ...]] = {
    "movielens": (
        Variant(
            Part(("ratings.csv",), _columns("userId", "movieId", "timestamp", "rating")),
            Part(("movies.csv",), _texts("movieId", "title", "genres")),
        ),
        Variant(
            Part(
                ("ratings.dat",),
                _columns("user_id", "item_id", "timestamp", "rating"),
                {"delimiter": "::", "names": MOVIELENS_NAMES},
            ),
            Part(
                ("movies.dat",),
                _texts("item_id", "title", "genres"),
                {"delimiter": "::", "encoding": "latin-1", "names": ["item_id", "title", "genres"]},
            ),
        ),
        Variant(
            Part(
                ("u.data",),
                _columns("user_id", "item_id", "timestamp", "rating"),
                {"delimiter": "\t", "names": MOVIELENS_NAMES},
            ),
            Part(
                ("u.item",),
                _texts("movie id", "movie title"),
                {"delimiter": "|", "encoding": "latin-1", "names": ML_100K_ITEM, "quotes": False},
            ),
        ),
    ),
    "steam": (
        Variant(
            Part(("steam_reviews.json", "*reviews*.json"), _columns("username", "product_id", "date")),
            Part(("steam_games.json", "*games*.json"), _texts("id", "app_name", "genres", "tags")),
        ),
    ),
    "yelp": (
        Variant(
            Part(("*review.json",), _columns("user_id", "business_id", "date", "stars")),
            Part(("*business.json",), _texts("business_id", "name", "categories", "city")),
        ),
    ),
    "hm": (
        Variant(
            Part(("transactions_train.csv", "transactions*.csv"), _columns("customer_id", "article_id", "t_dat")),
            Part(
                ("articles.csv",),
                _texts("article_id", "prod_name", "product_type_name", "colour_group_name", "detail_desc"),
            ),
        ),
    ),
    "retailrocket": (
        Variant(
            Part(("events.csv",), _columns("visitorid", "itemid", "timestamp")),
            Part(
                ("item_properties*.csv",),
                _texts("itemid", "value"),
                filters={"property": "categoryid"},
                title="category {}",
            ),
        ),
    ),
    "taobao": (
        Variant(
            Part(("UserBehavior.csv",), _columns("user_id", "item_id", "timestamp"), {"names": TAOBAO}),
            Part(("UserBehavior.csv",), _texts("item_id", "category_id"), {"names": TAOBAO}, title="category {}"),
        ),
    ),
    "mind": (
        Variant(
            Part(
                ("behaviors.tsv",),
                {"user_id": "user", "item_id": "user", "timestamp": None, "time": "time", "shown": "impressions"},
                {"names": MIND_BEHAVIORS, "quotes": False},
                as_log=_mind_clicks,
            ),
            Part(
                ("news.tsv",),
                _texts("id", "title", "category", "subcategory", "abstract"),
                {"names": MIND_NEWS, "quotes": False},
            ),
        ),
    ),
    "bookcrossing": (
        Variant(
            Part(
                ("BX-Book-Ratings.csv", "Ratings.csv", "ratings.csv"),
                _columns("User-ID", "ISBN", None, "Book-Rating"),
                {"encoding": "latin-1"},
            ),
            Part(
                ("BX-Books.csv", "BX_Books.csv", "Books.csv", "books.csv"),
                _texts("ISBN", "Book-Title", "Book-Author", "Publisher"),
                {"encoding": "latin-1"},
            ),
        ),
    ),
    "lastfm": (
        Variant(
            Part(
                ("userid-timestamp-artid-artname-traid-traname.tsv",),
                _columns("userid", "traid", "timestamp"),
                {"names": LASTFM_1K, "quotes": False},
            ),
            Part(
                ("userid-timestamp-artid-artname-traid-traname.tsv",),
                _texts("traid", "traname", "artname"),
                {"names": LASTFM_1K, "quotes": False},
            ),
        ),
        Variant(
            Part(
                ("user_taggedartists-timestamps.dat",),
                _columns("userID", "artistID", "timestamp"),
                {"delimiter": "\t"},
            ),
            Part(("artists.dat",), _texts("id", "name"), {"delimiter": "\t", "quotes": False}),
        ),
    ),
    "goodreads": (
        Variant(
            Part(
                ("goodreads_interactions*.json", "goodreads_reviews*.json"),
                _columns("user_id", "book_id", "date_added", "rating"),
            ),
            Part(("goodreads_books*.json",), _texts("book_id", "title", "description")),
        ),
    ),
}


@checks_types
def load_published(
    name: str,
    folder: str | Path,
    filters: Filters | None = None,
    untitled: Literal["drop", "keep"] = "drop",
    same_title: Literal["keep", "merge"] = "keep",
    repeats: Literal["keep", "first"] = "keep",
    min_rating: float | None = None,
) -> InteractionLog:
    r"""
    Reads a well-known data set in its raw form, by name, and cleans it with [`~items.tidy`].

    `docs/data.md` says for each which files and columns are read. Other forms are read by [`load_table`],
    [`load_amazon`], [`load_recbole`], [`load_lcrec`] and [`load_sequences`].

    Args:
        name (`str`):
            `"movielens"` (100k, 1M, 10M, latest), `"steam"`, `"yelp"`, `"hm"`, `"retailrocket"`, `"taobao"`, `"mind"`,
            `"bookcrossing"`, `"lastfm"` (1K, 2K) or `"goodreads"`.
        folder (`str` or `Path`):
            The folder of its files, plain or gzipped.
        filters (`Mapping[str, str | list[str]]`, *optional*):
            As in [`load_table`], such as `{"event": "transaction"}` of RetailRocket.
        untitled, same_title, repeats, min_rating (*optional*):
            Arguments of [`~items.tidy`].

    Returns:
        [`InteractionLog`]: As [`load_table`] returns it.

    Raises:
        `FileNotFoundError`: the folder lacks a file. `ValueError`: an unknown name, or a malformed file.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.items import load_published

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "ratings.dat").write_text("1::1193::5::978300760\n")
    >>> _ = (folder / "movies.dat").write_text("1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n")
    >>> log = load_published("movielens", folder)
    >>> log.items[0]["title"], log.interactions[0]["timestamp"]
    ("One Flew Over the Cuckoo's Nest (1975)", 978300760.0)
    ```
    """
    if name not in PUBLISHED:
        raise ValueError(
            f"Expected `name` among {list(PUBLISHED)}, but found {name!r}. Read other files by `load_table`."
        )
    variant = _find_variant(name, Path(folder))
    if filters and variant.interactions.as_log is not None:
        raise ValueError(f"Expected no `filters` for {name!r}, whose interactions are no table. Leave them out.")
    items = _read(variant.items, Path(folder), "items", ("item_id", "title"))
    required = ("user_id", "item_id", "timestamp")
    interactions, kept = _read_kept(variant.interactions, Path(folder), "interactions", required, filters)
    log = InteractionLog(items, interactions)
    if filters:
        log = filtered(log, kept, filters)
    return tidy(log, untitled=untitled, same_title=same_title, repeats=repeats, min_rating=min_rating)


def _find_variant(name: str, folder: Path) -> Variant:
    for variant in PUBLISHED[name]:
        if variant.interactions.find(folder) and variant.items.find(folder):
            return variant
    expected = " or ".join(
        f"{variant.interactions.files[0]} and {variant.items.files[0]}" for variant in PUBLISHED[name]
    )
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "no such folder"
    raise FileNotFoundError(
        f"Expected {expected} in {folder} for {name!r}, perhaps with `.gz` after that, but found {found}. Pass the "
        "folder of the raw files."
    )


def _read(part: Part, folder: Path, name: str, required: tuple[str, ...]) -> Dataset:
    table, kept = _read_kept(part, folder, name, required, part.filters)
    if not part.filters:
        return table
    return Dataset(table.with_format("arrow")[:].filter(kept))


def _read_kept(
    part: Part, folder: Path, name: str, required: tuple[str, ...], filters: Filters | None
) -> tuple[Dataset, pa.ChunkedArray]:
    tables, kept = [], []
    for path in part.find(folder):
        options = part.options | _release_of(path, part.options)
        optional = ("description",) if name == "items" else ()
        table, mask = read_table(TableFile(path, **options), name, part.columns, required, optional, filters)
        tables.append(table)
        kept.extend(mask.chunks)
    table = tables[0] if len(tables) == 1 else concatenate_datasets(tables)
    if part.as_log is not None:
        table = part.as_log(table)
    if part.title != "{}":
        arrow = table.with_format("arrow")[:]
        before, after = part.title.split("{}")
        titles = pc.binary_join_element_wise(before, arrow["title"], after, "")
        table = Dataset(arrow.set_column(arrow.column_names.index("title"), "title", titles))
    return table, pa.chunked_array(kept, pa.bool_())


def _release_of(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Tells releases of one name apart: Book-Crossing's older one, and files that came in UTF-8 later."""
    release: dict[str, Any] = {"delimiter": ";", "escape": "\\"} if path.name.startswith("BX") else {}
    if "encoding" in options and _is_utf8(path):
        release["encoding"] = "utf-8"
    return release


def _is_utf8(path: Path) -> bool:
    with open_plain_or_gzip(path) as file:
        try:
            return all(line.decode("utf-8") is not None for line in file)
        except UnicodeDecodeError:
            return False
