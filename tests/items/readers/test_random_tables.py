"""Random tables in random dialects come back equal, or not at all: never different."""

import csv
import gzip
import io
import json

import pytest


pytest.importorskip("hypothesis", reason="needs the extra `dev`")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tsrec_hf.items import TableFile  # noqa: E402
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
