"""Files that are cut, in another encoding, or no tables: each error names the file and the way on."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from tsrec_hf import TableFile, load_sequences, load_table
from tsrec_hf.items.readers import dialects
from tsrec_hf.items.readers.delimited import line_of, read_delimited
from tsrec_hf.items.readers.json_documents import _entries
from tsrec_hf.items.readers.sources import read_columns
from tsrec_hf.items.readers.values import plain


LOG = Dataset.from_dict({"user_id": ["u"], "item_id": ["1"], "timestamp": [1]})


def cut(path: Path, text: str) -> Path:
    """A gzip whose end is missing: after the first lines, which are still read to find the dialect, or before."""
    packed = gzip.compress(text.encode(), compresslevel=0)
    path.write_bytes(packed[: len(packed) // 2])
    return path


@pytest.mark.parametrize("name", ["items.csv.gz", "items.txt.gz", "items.tsv.gz"])
@pytest.mark.parametrize("num_rows", [3, 20_000])
def test_a_cut_gzip_of_a_table(tmp_path, name, num_rows) -> None:
    path = cut(
        tmp_path / name, "item_id,title\n".replace(",", "\t" if "csv" not in name else ",") + "1\tnut\n" * num_rows
    )
    with pytest.raises(ValueError, match=rf"{name} is not whole.*truncated.*fetch it again"):
        load_table(LOG, path)


def test_a_cut_gzip_of_a_json_document(tmp_path) -> None:
    rows = ",\n".join(f'{{"item_id": "{number}", "title": "nut"}}' for number in range(50_000))
    with pytest.raises(ValueError, match=r"items.json.gz cannot be unpacked .*truncated: fetch it again"):
        load_table(LOG, cut(tmp_path / "items.json.gz", f"[\n{rows}\n]"))


def test_a_json_document_in_another_encoding(tmp_path) -> None:
    (tmp_path / "items.json").write_bytes('[\n{"item_id": "1", "title": "Schlüssel"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"items.json is not in UTF-8 .*iconv"):
        load_table(LOG, tmp_path / "items.json")


def test_a_table_in_another_encoding_than_it_is_said_to_have(tmp_path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"item_id,title\n" + "1,Schlüssel\n".encode("latin-1") * 3)
    with pytest.raises(ValueError, match=r"items.csv.*(cannot be read|is not in ascii).*encoding"):
        load_table(LOG, TableFile(path, encoding="ascii"))
    path.write_bytes(b"item_id,title\n" + b"1,key\n" * 9999 + "2,Schlüssel\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"items.csv.*is not in ascii: .*encoding"):
        load_table(LOG, TableFile(path, encoding="ascii"))


def test_the_character_that_stands_for_a_long_delimiter(tmp_path) -> None:
    path = tmp_path / "items.dat"
    path.write_text("item_id::title\n1::nut\x1fbolt\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"items.dat without the control character .*Remove it"):
        load_table(LOG, TableFile(path, delimiter="::"))


def test_sequences_in_another_encoding(tmp_path) -> None:
    (tmp_path / "toys.txt").write_bytes("ü 1 2 3\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"toys.txt is not in utf-8: .*latin-1"):
        load_sequences(
            tmp_path / "toys.txt", Dataset.from_dict({"item_id": list("123"), "title": ["nut", "bolt", "key"]})
        )


def test_a_row_of_a_dataset_is_named_by_its_number() -> None:
    columns = read_columns(LOG, "interactions", {"user_id": "text"})
    assert columns.locate(0) == "row 1"


def test_other_arrow_types_of_text_are_plain_text() -> None:
    words = ["nut", None, "nut"]
    for type_ in (pa.dictionary(pa.int8(), pa.string()), pa.large_string(), pa.string_view()):
        column = plain(pa.chunked_array([pa.array(words).cast(type_)]))
        assert column.type == pa.string() and column.to_pylist() == words


def test_a_table_whose_delimiter_is_to_be_found_in_another_encoding(tmp_path) -> None:
    path = tmp_path / "items.txt"
    path.write_bytes("item_id\ttitle\n1\tSchl\u00fcssel\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"items.txt is not in ascii: .*encoding"):
        load_table(LOG, TableFile(path, encoding="ascii"))


def test_a_document_that_is_neither_rows_nor_keys(tmp_path) -> None:
    (tmp_path / "items.json").write_text("[\n")
    with pytest.raises(ValueError, match="items.json"):
        load_table(LOG, tmp_path / "items.json")
    with pytest.raises(ValueError, match="Expected an array or an object in items.json, but found '5'"):
        list(_entries(5, {"item_id": "text"}, "items.json"))


def test_a_delimiter_in_a_quoted_cell_of_a_table_that_declares_no_quotes(tmp_path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text('item_id\ttitle\n1\t"nut\tof steel"\n2\tbolt\n')
    assert read_columns(path, "items", {"title": "text"}).table["title"].to_pylist() == ["nut\tof steel", "bolt"]


def test_a_row_beyond_the_end_has_no_line(tmp_path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n1,nut\n")
    dialect = read_delimited(TableFile(path), ["item_id"])[1]
    assert line_of(dialect, 0) == 2
    with pytest.raises(IndexError):
        line_of(dialect, 1)


def test_a_first_line_that_is_no_row(tmp_path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id," + "title" * 30_000 + "\n1,nut\n")
    with pytest.raises(ValueError, match=r"first lines of .*items.csv cannot be read: field larger than"):
        load_table(LOG, path)


def test_the_same_character_in_another_encoding(tmp_path) -> None:
    path = tmp_path / "items.dat"
    path.write_bytes("item_id::title\n1::Schl\u00fcssel\x1f\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"items.dat without the control character .*Remove it"):
        load_table(LOG, TableFile(path, delimiter="::", encoding="latin-1"))


def test_the_line_of_another_encoding_far_down(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dialects, "BLOCK_BYTES", 50)
    path = tmp_path / "items.csv"
    path.write_bytes(b"item_id,title\n" + b"1,nut\n" * 98 + "2,Schlüssel\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"items.csv is not a UTF-8 table: line 100 has b'\\xfc'"):
        load_table(LOG, path)
