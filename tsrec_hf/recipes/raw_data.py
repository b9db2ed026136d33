"""`RawDataArguments`: the options by which commands open raw data of any form, and what they open."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal


# What reads the data is imported when data are read: the help of a command shows these options without it.
if TYPE_CHECKING:
    from tsrec_hf.items import InteractionLog, RecommendationDataset


logger = logging.getLogger(__name__)

SPLITTERS = ("chronological", "leave_one_out")
AMAZON = ("amazon", "amazon2014", "amazon2018", "amazon2023")
PUBLISHED = (
    "movielens",
    "steam",
    "yelp",
    "hm",
    "retailrocket",
    "taobao",
    "mind",
    "bookcrossing",
    "lastfm",
    "goodreads",
)
FORMATS = ("table", *AMAZON, "recbole", "lcrec", "sequences", *PUBLISHED)
# Forms whose one folder holds items and interactions.
FOLDERS = ("recbole", *PUBLISHED)
NAMED_COLUMNS = ("table", "recbole", "lcrec", "sequences")
# Published sequences are evaluated with all items, also those without a title.
ALL_ITEMS = ("lcrec", "sequences")
# Options of text files, and the forms that they are for.
TEXT_OPTIONS = {
    "delimiter": ("table", "sequences"),
    "encoding": ("table", "sequences", "recbole"),
    "header": ("table",),
    "quotes": ("table",),
    "item_names": ("table",),
    "interaction_names": ("table",),
    "filters": ("table", *PUBLISHED),
    "timestamp_format": ("table",),
    "item_offset": ("sequences",),
}


@dataclass(kw_only=True)
class RawDataArguments:
    """
    What to read, and how to clean and split it.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.recipes.raw_data import RawDataArguments

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "toys.txt").write_text("1 7 8 9\\n2 8 7 9 8\\n")
    >>> _ = (folder / "toys.csv").write_text("nr,name\\n7,Glue\\n8,Tape\\n9,Saw\\n")
    >>> args = RawDataArguments(
    ...     format="sequences",
    ...     items_file=str(folder / "toys.csv"),
    ...     interactions_file=str(folder / "toys.txt"),
    ...     item_columns=["item_id=nr", "title=name"],
    ... )
    >>> args.split_log(args.read(), "toys")
    RecommendationDataset(name='toys', items=3, train=1, valid=2, test=2, sid_index=None)
    ```
    """

    items_file: str = field(
        metadata={
            "help": "Items: a table or Amazon's metadata; or the folder of a data set that holds both.",
            "aliases": ["--items"],
        }
    )
    interactions_file: str | None = field(
        default=None,
        metadata={
            "help": "Interactions: a table, Amazon's reviews, sequences, or LC-Rec's folder.",
            "aliases": ["--interactions"],
        },
    )
    format: str = field(default="table", metadata={"help": f"What the files are, one of {', '.join(FORMATS)}."})
    item_columns: list[str] = field(
        default_factory=list, metadata={"help": "Where columns have other names: title=name description=short,long."}
    )
    interaction_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Likewise: user_id=customer. timestamp=none: the rows are in order and have no times."},
    )
    filters: list[str] = field(
        default_factory=list, metadata={"help": "Interactions that count, by a column: event=purchase,cart."}
    )
    delimiter: str | None = field(
        default=None, metadata={"help": "What separates columns of text: ';', '::'; default: by the file's name."}
    )
    encoding: str | None = field(default=None, metadata={"help": "Encoding of text: latin-1, gbk; default: UTF-8."})
    header: bool | None = field(
        default=None, metadata={"help": "Are there column names in the first line? Default: yes, without names below."}
    )
    quotes: bool | None = field(
        default=None,
        metadata={"help": "May cells stand in double quotes? Default: with commas yes, with tabs if all do."},
    )
    item_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the columns, in order, of a table of items without a header."}
    )
    interaction_names: list[str] | None = field(default=None, metadata={"help": "Likewise for the interactions."})
    timestamp_format: str | None = field(
        default=None,
        metadata={"help": "How dates are written that are not ISO dates: '%d/%m/%Y %H:%M' for 12/04/1997 15:55."},
    )
    item_offset: int = field(
        default=0,
        metadata={"help": "Added to the item ids of sequences, if they count from 1 and the table from 0: -1."},
    )
    untitled: Literal["drop", "keep"] | None = field(
        default=None, metadata={"help": "Untitled items; default: 'keep' for lcrec and sequences, else 'drop'."}
    )
    same_title: Literal["keep", "merge"] = field(default="keep", metadata={"help": "Merge items of one title?"})
    repeats: Literal["keep", "first"] | None = field(
        default=None, metadata={"help": "A user's later takes of an item; default: 'first' for Amazon, else 'keep'."}
    )
    min_rating: float | None = field(default=None, metadata={"help": "Least rating of an interaction that counts."})
    user_k: int = field(default=1, metadata={"help": "Fewest interactions of a user."})
    item_k: int = field(default=0, metadata={"help": "Fewest interactions of an item; 0 keeps those nobody took."})
    split: str | None = field(
        default=None,
        metadata={
            "help": f"One of {', '.join(SPLITTERS)}; default: the first, and the second where there are no times."
        },
    )
    max_history: int = field(default=10, metadata={"help": "Longest history of a row."})

    def __post_init__(self) -> None:
        for name, value, allowed in (("format", self.format, FORMATS), ("split", self.split, (None, *SPLITTERS))):
            if value not in allowed:
                raise ValueError(
                    f"Expected `{name}` among {[one for one in allowed if one is not None]}, but found {value!r}."
                )
        if self.format in FOLDERS and self.interactions_file is not None:
            whose = "RecBole's" if self.format == "recbole" else f"The {self.format!r}"
            raise ValueError(f"{whose} folder holds the interactions too. Leave `--interactions_file` out.")
        if self.format == "sequences" and self.interactions_file is None:
            raise ValueError("Expected the file of sequences as `--interactions_file`, but found none. Name it.")
        if self.format not in NAMED_COLUMNS and (self.item_columns or self.interaction_columns):
            raise ValueError(f"Columns are named for tables; those of {self.format!r} are known. Leave them out.")
        if self.format in ALL_ITEMS and (self.interaction_columns or self.min_rating is not None):
            raise ValueError(
                f"Sequences as of {self.format!r} have no columns and ratings. Leave `--interaction_columns` and "
                "`--min_rating` out."
            )
        if self.delimiter is not None:
            # A shell passes a tab as it is typed.
            self.delimiter = self.delimiter.replace("\\t", "\t")
        wrong = [name for name, formats in TEXT_OPTIONS.items() if self.format not in formats and self._is_set(name)]
        if wrong:
            formats = {name: list(TEXT_OPTIONS[name]) for name in wrong}
            raise ValueError(
                f"Expected {wrong} only with the formats {formats}, but found {self.format!r}. Leave them out."
            )

    def _is_set(self, name: str) -> bool:
        return getattr(self, name) not in (None, 0, []) or getattr(self, name) is False

    def read(self, further: Iterable[str] = ()) -> "InteractionLog":
        """
        Reads, cleans and filters the log; `further` names columns of items to read besides, where there are tables.
        """
        from tsrec_hf.items import k_core

        log = self._load(further)
        if (self.user_k, self.item_k) != (1, 0):
            log = k_core(log, self.user_k, self.item_k)
        return log

    def _load(self, further: Iterable[str]) -> "InteractionLog":
        from tsrec_hf.items import load_amazon, load_published, load_recbole, load_sequences, load_table, tidy
        from tsrec_hf.items.readers.lcrec import read_lcrec

        tidying: dict[str, Any] = {"untitled": self.untitled, "same_title": self.same_title, "repeats": self.repeats}
        tidying["min_rating"] = self.min_rating
        tidying = {name: value for name, value in tidying.items() if value is not None}
        items: dict[str, str | list[str]] = {
            name: names.split(",") for name, names in as_pairs(self.item_columns, "item_columns").items()
        }
        named = as_pairs(self.interaction_columns, "interaction_columns")
        interactions = {
            name: None if (name, value) == ("timestamp", "none") else value for name, value in named.items()
        }
        if self.format in ("table", "sequences"):
            items |= {name: name for name in further if name not in {"title", "description", *items}}
        if self.format in AMAZON:
            return load_amazon(self.interactions_file, self.items_file, **tidying)
        if self.format in PUBLISHED:
            return load_published(self.format, self.items_file, self.allowed_values(), **tidying)
        if self.format == "recbole":
            return tidy(load_recbole(self.items_file, None, items, interactions, self.encoding), **tidying)
        if self.format == "lcrec":
            path, table = self.interactions_file or self.items_file, (
                self.items_file if self.interactions_file else None
            )
            return tidy(read_lcrec(path, table, items), **({"untitled": "keep"} | tidying))
        if self.format == "sequences":
            assert self.interactions_file is not None
            return load_sequences(
                self.interactions_file,
                self.items_file,
                items,
                self.delimiter,
                self.encoding or "utf-8",
                item_offset=self.item_offset,
                **tidying,
            )
        return load_table(
            self.interactions_file,
            self.items_file,
            interactions,
            items,
            filters=self.allowed_values(),
            delimiter=self.delimiter,
            encoding=self.encoding,
            header=self.header,
            quotes=self.quotes,
            interaction_names=self.interaction_names,
            item_names=self.item_names,
            timestamp_format=self.timestamp_format,
            **tidying,
        )

    def allowed_values(self) -> dict[str, list[str]]:
        """The columns of `filters`, and the values that their rows must have."""
        return {name: values.split(",") for name, values in as_pairs(self.filters, "filters").items()}

    def split_log(self, log: "InteractionLog", name: str) -> "RecommendationDataset":
        """Splits a log, or makes a data set of items alone if there are no interactions."""
        from datasets import Dataset, Features, List, Value

        from tsrec_hf.items import RecommendationDataset, chronological_split, leave_one_out_split
        from tsrec_hf.items.splits import has_positions_for_times

        if not len(log.interactions):
            text = Value("string")
            features = Features({"user_id": text, "history": List(text), "target": text})
            none = Dataset.from_dict({"user_id": [], "history": [], "target": []}, features=features)
            return RecommendationDataset(log.items, none, none, none, name=name)
        way = self.split or "chronological"
        if self.split is None and has_positions_for_times(log.interactions):
            way = "leave_one_out"
            logger.info("The log has an order and no times: split leave-one-out, the last item of each user for test.")
        splitter = chronological_split if way == "chronological" else leave_one_out_split
        dataset = log.split(splitter, name=name, max_history=self.max_history)
        empty = [part for part in ("train", "valid", "test") if not len(getattr(dataset, part))]
        if empty:
            raise ValueError(
                f"Expected rows in every split, but {empty} have none: {dataset}. Give more interactions, or try "
                f"another `--split` than {way!r}, of {list(SPLITTERS)}."
            )
        return dataset


def as_pairs(texts: list[str], name: str) -> dict[str, str]:
    """Splits options such as `["title=name"]` into `{"title": "name"}`."""
    split = [text.split("=", 1) for text in texts]
    wrong = [text for text, parts in zip(texts, split) if len(parts) != 2 or not all(parts)]
    if wrong:
        raise ValueError(
            f"Expected `--{name}` as pairs such as title=name, but found {wrong}. Write them without spaces."
        )
    return dict(split)
