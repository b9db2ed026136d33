"""Random tables in random dialects come back equal, or not at all: never different."""

import csv
import gzip
import io
import json
from datetime import datetime, timezone

import pytest
from datasets import Dataset


pytest.importorskip("hypothesis", reason="needs the extra `dev`")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tsrec_hf.items import TableFile, load_sequences  # noqa: E402
from tsrec_hf.items.readers.table import read_table  # noqa: E402


COLUMNS = ["item_id", "title", "note, or not"]
# Letters of several alphabets, and everything that a dialect gives a meaning.
CHARACTERS = st.sampled_from(list("ab7 é漢ß") + list("\"'\\,;|\t:#{}[]") + ["::", '""', "NULL", "\u2028", "\xa0"])
LINE_ENDS = st.sampled_from(["\n", "\r\n"])
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def texts(*forbidden: str) -> st.SearchStrategy[str]:
    return st.lists(CHARACTERS, max_size=6).map("".join).filter(lambda text: not any(one in text for one in forbidden))


def tables(cell: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[str]]]:
    return st.lists(st.tuples(cell, cell, cell).map(list), min_size=1, max_size=5)


def read(path, **options) -> list[list[str]]:
    columns = {"note": COLUMNS[2]}
    table, _ = read_table(TableFile(path, **options), "items", columns, ("item_id", "title"), ())
    return [[row["item_id"], row["title"], row["note"]] for row in table]


def write(path, text: str, encoding: str = "utf-8", packed: bool = False):
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@given(
    rows=tables(st.lists(st.one_of(CHARACTERS, st.just("\n")), max_size=6).map("".join)),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=LINE_ENDS,
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
    packed=st.booleans(),
)
@QUICK
def test_quoted_tables(tmp_path, rows, delimiter, quoting, end, encoding, packed):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([COLUMNS, *rows])
    path = write(tmp_path / "items.csv", text.getvalue(), encoding, packed)
    given_encoding = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    options = {"delimiter": delimiter, "encoding": given_encoding}
    assert read(path, quotes=True, **options) == rows
    # With tabs, quotes are characters unless they balance: that is for the next test.
    if delimiter in ",;":
        assert read(path, **options) == rows


@given(
    rows=tables(texts("\t", "\u2028")),
    end=LINE_ENDS,
    header=st.booleans(),
    last=st.booleans(),
    packed=st.booleans(),
)
@QUICK
def test_unquoted_tables(tmp_path, rows, end, header, last, packed):
    lines = [COLUMNS, *rows] if header else rows
    path = write(tmp_path / "items.tsv", end.join("\t".join(row) for row in lines) + end * last, packed=packed)
    options = {"header": header, "names": None if header else COLUMNS}
    assert read(path, quotes=False, **options) == rows
    found = read(path, **options)
    # Quotes that balance everywhere are taken off, and nothing else is.
    assert found == rows or found == [[unquoted(cell) for cell in row] for row in rows]


def unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell


@given(
    rows=tables(texts(":", "|", "\u2028").filter(lambda text: text.strip() == text)),
    delimiter=st.sampled_from(["::", "||", "¦"]),
)
@QUICK
def test_delimiters_of_several_characters(tmp_path, rows, delimiter):
    path = write(tmp_path / "items.dat", "".join(delimiter.join(row) + "\n" for row in rows))
    assert read(path, delimiter=delimiter, names=COLUMNS, quotes=False) == rows


@given(
    rows=tables(st.text(st.characters(codec="utf-8"), max_size=6)),
    form=st.sampled_from(["lines", "array", "columns", "keys"]),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
@QUICK
def test_json(tmp_path, rows, form, indent, ascii_only):
    records = [dict(zip(COLUMNS, row)) for row in rows]
    if form == "lines":
        text = "".join(json.dumps(record, ensure_ascii=ascii_only) + "\n" for record in records)
    else:
        document = {
            "array": records,
            "columns": {name: [row[number] for row in rows] for number, name in enumerate(COLUMNS)},
            "keys": {f"k{number}": record for number, record in enumerate(records)},
        }[form]
        text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    assert read(write(tmp_path / "items.json", text)) == rows


@given(
    rows=tables(texts("\t", '"', "\u2028")),
    wrong=st.integers(0, 4),
    change=st.sampled_from(["cell more", "cell less", "quote"]),
)
@QUICK
def test_a_row_of_another_length_is_an_error_that_names_its_line(tmp_path, rows, wrong, change):
    number = wrong % len(rows)
    lines = ["\t".join(row) for row in [COLUMNS, *rows]]
    changed = {"cell more": lines[number + 1] + "\tx", "cell less": "x", "quote": '"' + lines[number + 1]}[change]
    lines[number + 1] = changed
    path = write(tmp_path / "items.tsv", "\n".join(lines) + "\n")
    if change == "quote":
        assert read(path) == [['"' * (at == number) + row[0], *row[1:]] for at, row in enumerate(rows)]
    else:
        with pytest.raises(ValueError, match=f"line {number + 2} has"):
            read(path)


@given(
    rows=tables(st.lists(st.one_of(CHARACTERS, st.just("\n")), max_size=6).map("".join)),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=LINE_ENDS,
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    suffix=st.sampled_from(["csv", "tsv", "txt", "dat"]),
)
@QUICK
def test_a_dialect_that_nobody_tells(tmp_path, rows, delimiter, quoting, end, encoding, suffix):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([COLUMNS, *rows])
    path = write(tmp_path / f"items.{suffix}", text.getvalue(), encoding)
    try:
        found = read(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert found == rows


IDS = st.text(st.sampled_from("ab7é漢 -"), min_size=1, max_size=4).filter(lambda text: text.strip() == text)
SECONDS = st.integers(0, 2**33)
RATINGS = st.one_of(st.none(), st.integers(0, 5), st.sampled_from([0.5, 3.25]))
DELIMITERS = {"csv": ",", "tsv": "\t", "dat": "::"}


def write_log(folder, rows: list[dict], form: str, dates: bool):
    if dates:
        rows = [
            row | {"timestamp": f"{datetime.fromtimestamp(row['timestamp'], timezone.utc):%FT%TZ}"} for row in rows
        ]
    path = folder / f"log.{form}"
    if form == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif form == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        names = ["item_id", "timestamp", "rating", "user_id"]
        cells = [names, *(["" if row[name] is None else str(row[name]) for name in names] for row in rows)]
        path.write_text("".join(DELIMITERS[form].join(row) + "\n" for row in cells), encoding="utf-8")
    return path


@given(
    rows=st.lists(
        st.fixed_dictionaries({"user_id": IDS, "item_id": IDS, "timestamp": SECONDS, "rating": RATINGS}), min_size=1
    ),
    form=st.sampled_from([*DELIMITERS, "json", "jsonl", "parquet"]),
    dates=st.booleans(),
)
@QUICK
def test_logs(tmp_path, rows, form, dates):
    path = write_log(tmp_path, rows, form, dates)
    required = ("user_id", "item_id", "timestamp")
    table, _ = read_table(path, "interactions", None, required, ("rating",))
    expected = [{**row, "timestamp": float(row["timestamp"])} for row in rows]
    if "rating" not in table.column_names:  # none of the rows has one
        assert all(row.pop("rating") is None for row in expected)
    assert table.to_list() == expected


@given(
    histories=st.dictionaries(
        st.integers(1, 99).map(str), st.lists(st.integers(1, 9).map(str), min_size=1, max_size=5), min_size=1
    ),
    pairs=st.booleans(),
    sign=st.sampled_from([" ", "\t", "  "]),
    end=LINE_ENDS,
)
@QUICK
def test_sequences(tmp_path, histories, pairs, sign, end):
    histories = {user: history if pairs or len(history) > 1 else history * 2 for user, history in histories.items()}
    if pairs:
        lines = [sign.join((user, item)) for user, history in histories.items() for item in history]
    else:
        lines = [sign.join((user, *history)) for user, history in histories.items()]
    path = write(tmp_path / "log.txt", "".join(line + end for line in lines))
    items = Dataset.from_dict({"item_id": list("123456789"), "title": list("abcdefghi")})
    found: dict[str, list[str]] = {}
    for row in load_sequences(path, items).interactions:
        assert row["timestamp"] == len(found.setdefault(row["user_id"], []))
        found[row["user_id"]].append(row["item_id"])
    assert found == histories
