"""
Everything that is wrong with two tables, found before anything is trained and told at once, by the options that help.

Readers stop at the first fault, and cleaning drops what it cannot use; here all faults are collected, and rows that
would be dropped count as a fault where they are many. Rows that the options leave out or keep anyway are no faults.
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tsrec_hf.items.missing import is_missing
from tsrec_hf.items.readers import TableFile
from tsrec_hf.items.readers.sources import Columns, read_columns
from tsrec_hf.items.readers.values import plain
from tsrec_hf.items.readers.wanted import KINDS, WantedColumns, convert

from .raw_data import RawDataArguments, as_pairs


LEAST_USERS, LEAST_ROWS = 10, 50
DELIMITERS = (";", "\t", "|")
REQUIRED = {"items": ("item_id", "title"), "interactions": ("user_id", "item_id", "timestamp")}
OPTIONAL = {"items": ("description",), "interactions": ("rating",)}
# Other names that columns often have.
USUAL_NAMES = {
    "item_id": ("id", "sku", "item", "product_id", "productid", "itemid", "asin", "movie_id", "movieid", "article_id"),
    "title": ("name", "product_name", "item_name", "product_title", "movie_title"),
    "user_id": ("user", "customer", "customer_id", "userid", "client_id", "visitor_id", "member_id"),
    "timestamp": ("time", "date", "datetime", "ts", "created_at", "order_date", "event_time", "purchased_at"),
}


@dataclass
class TableFaults:
    """
    What is wrong with two tables.

    Attributes:
        errors (`list[str]`): What no recommender can be made of.
        warnings (`list[str]`): Rows that are left out, so few that the rest stands.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add_rows(self, rows: int, of: int, max_faulty: float, what: str, advice: str) -> None:
        """Adds faulty rows: a warning up to a share of all, an error beyond."""
        if not rows:
            return
        text = f"{what}: {rows:,} of {of:,} rows"
        if rows <= max_faulty * of:
            self.warnings.append(f"{text} are left out.")
        else:
            self.errors.append(f"{text}. {advice} Or leave them out: --max_faulty {_above(rows / of)}.")


def find_faults(options: RawDataArguments, max_faulty: float) -> TableFaults:
    """
    Looks for all faults of the tables of a command.

    Args:
        options ([`RawDataArguments`]):
            Files and how to read them; those of other formats than `table` are left to their readers.
        max_faulty (`float`):
            Share of faulty rows up to which they are a warning.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.recipes.raw_data import RawDataArguments
    >>> from tsrec_hf.recipes.table_faults import find_faults

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "items.csv").write_text("item_id;title\\n1;Nut\\n")
    >>> _ = (folder / "log.csv").write_text("")
    >>> args = RawDataArguments(items_file=str(folder / "items.csv"), interactions_file=str(folder / "log.csv"))
    >>> [error.split(": ", 1)[1] for error in find_faults(args, 0.01).errors]
    ["its columns are separated by ';'. Pass --delimiter ';'.", 'the file is empty. Export it again.']
    ```
    """
    faults = TableFaults()
    if options.format != "table":
        return faults
    items, found_items = _read(options, "items", faults)
    taken, found_taken = _read(options, "interactions", faults)
    if options.untitled == "keep":
        items.pop("title", None)
    if found_items and "item_id" in items:
        _check_items(items, found_items.where, max_faulty, faults)
    if found_taken and "user_id" in taken and "item_id" in taken:
        _check_interactions(taken, items.get("item_id"), found_taken.where, max_faulty, faults)
    same = options.interactions_file is not None and Path(options.items_file) == Path(options.interactions_file)
    if same and faults.errors:
        faults.errors.insert(0, f"--items and --interactions name the same file, {options.items_file}. Are there two?")
    return faults


def _read(
    options: RawDataArguments, table: str, faults: TableFaults
) -> tuple[dict[str, pa.ChunkedArray], Columns | None]:
    """Columns that could be read, by our names, of the rows that count."""
    path = options.items_file if table == "items" else options.interactions_file
    names = options.item_names if table == "items" else options.interaction_names
    if path is None:
        return {}, None
    if not Path(path).exists():
        faults.errors.append(f"{path} (--{table}): there is no such file. Check the path.")
        return {}, None
    if Path(path).is_file() and not Path(path).stat().st_size:
        faults.errors.append(f"{path}: the file is empty. Export it again.")
        return {}, None
    separator = _other_separator(path, options)
    if separator is not None:
        faults.errors.append(f"{path}: its columns are separated by {separator!r}. Pass --delimiter {separator!r}.")
        return {}, None
    option = "item_columns" if table == "items" else "interaction_columns"
    renamed = as_pairs(getattr(options, option), option)
    wanted = {one: renamed.get(one, one).split(",") for one in (*REQUIRED[table], *OPTIONAL[table])}
    in_order = wanted.get("timestamp") == ["none"]
    if in_order:
        del wanted["timestamp"]
    filters = WantedColumns.of(table, {}, (), filters=options.allowed_values() if table == "interactions" else None)
    kinds = filters.kinds | {name: KINDS[one] for one, names_of in wanted.items() for name in names_of}
    try:
        file = TableFile(path, options.delimiter, options.encoding, names, options.header, options.quotes)
        read = read_columns(file, table, kinds)
    except (OSError, TypeError, ValueError) as error:
        faults.errors.append(str(error))
        return {}, None
    missing = [
        one for one in REQUIRED[table] if one in wanted and not set(wanted[one]) <= set(read.table.column_names)
    ]
    if missing:
        pairs = " ".join(f"{one}={_like(one, read.names)}" for one in missing)
        faults.errors.append(
            f"{read.where}: it has the columns {', '.join(read.names[:12])}, but not {', '.join(missing)}. Say which "
            f"they are: --{option} {pairs}."
        )
    columns: dict[str, pa.ChunkedArray] = {}
    for one in REQUIRED[table]:
        if one not in wanted or one in missing:
            continue
        try:
            columns[one] = convert(read, wanted[one], KINDS[one], options.timestamp_format)
        except (TypeError, ValueError) as error:
            faults.errors.append(str(error))
    if not len(read.table) and not missing:
        faults.errors.append(f"{read.where}: it has column names and no rows. Export it again.")
        return {}, None
    try:
        filters.check(read)
        filters.check_values(read)
    except ValueError as error:
        faults.errors.append(str(error))
        return {}, None
    kept = filters.kept(read)
    return {one: column.filter(kept) for one, column in columns.items()}, read


def _other_separator(path: str, options: RawDataArguments) -> str | None:
    """What separates the columns of a CSV file whose first line has no comma."""
    if options.delimiter is not None or not path.lower().endswith(".csv"):
        return None
    with open(path, encoding=options.encoding or "utf-8", errors="replace") as file:
        first = file.readline()
    counts = {sign: first.count(sign) for sign in DELIMITERS}
    best = max(counts, key=lambda sign: counts[sign])
    return best if counts[best] > first.count(",") else None


def _like(column: str, names: list[str]) -> str:
    plain_names = {name.strip().lower().replace(" ", "_"): name for name in names}
    for usual in (column, *USUAL_NAMES.get(column, ())):
        if usual in plain_names:
            return plain_names[usual]
    close = difflib.get_close_matches(column, plain_names, n=1)
    return plain_names[close[0]] if close else "..."


def _check_items(columns: dict[str, pa.ChunkedArray], where: str, max_faulty: float, faults: TableFaults) -> None:
    ids = plain(columns["item_id"])
    total = len(ids)
    without = pc.sum(is_missing(ids)).as_py() or 0
    faults.add_rows(without, total, max_faulty, f"{where}: items without an item_id", "Give every item one.")
    counts = pc.value_counts(ids.filter(pc.invert(is_missing(ids))))
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        extra = (pc.sum(repeated.field("counts")).as_py() or 0) - len(repeated)
        shown = ", ".join(repr(one) for one in repeated.field("values")[:3].to_pylist())
        faults.add_rows(
            extra, total, max_faulty, f"{where}: item ids that repeat, such as {shown}", "Keep one row an item."
        )
    if "title" in columns:
        empty = pc.sum(is_missing(columns["title"])).as_py() or 0
        faults.add_rows(
            empty, total, max_faulty, f"{where}: items without a title", "Fill them in, or name another column."
        )


def _check_interactions(
    columns: dict[str, pa.ChunkedArray],
    item_ids: pa.ChunkedArray | None,
    where: str,
    max_faulty: float,
    faults: TableFaults,
) -> None:
    users, items = plain(columns["user_id"]), plain(columns["item_id"])
    total = len(users)
    absent = pc.or_(is_missing(users), is_missing(items))
    if "timestamp" in columns:
        absent = pc.or_(absent, pc.is_null(columns["timestamp"]))
    faults.add_rows(
        pc.sum(absent).as_py() or 0,
        total,
        max_faulty,
        f"{where}: interactions without user, item or time",
        "Fill them in.",
    )
    usable = pc.invert(absent)
    if item_ids is not None:
        known = pc.is_in(items, value_set=plain(item_ids).combine_chunks())
        strange = pc.unique(items.filter(pc.and_(usable, pc.invert(known))))
        shown = ", ".join(repr(one) for one in strange[:3].to_pylist())
        there = ", ".join(repr(one) for one in plain(item_ids)[:3].to_pylist())
        faults.add_rows(
            pc.sum(pc.and_(usable, pc.invert(known))).as_py() or 0,
            total,
            max_faulty,
            f"{where}: item ids that are not among the items, such as {shown} (those are {there}, ...)",
            "Do both files mean the same ids?",
        )
        usable = pc.and_(usable, known)
    per_user = pc.value_counts(users.filter(usable)).field("counts")
    several = per_user.filter(pc.greater(per_user, 1))
    targets = (pc.sum(several).as_py() or 0) - len(several)
    if len(several) < LEAST_USERS or targets < LEAST_ROWS:
        faults.errors.append(
            f"{where}: {len(several):,} users have two interactions or more with known items, and {targets:,} "
            f"next items to learn from; {LEAST_USERS} and {LEAST_ROWS} are needed. Is {len(per_user):,} the number of "
            "users? If not, name their column: --interaction_columns user_id=..."
        )


def _above(share: float) -> float:
    """A round number not below a share."""
    return next(step for step in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0) if share <= step)
