"""What a stranger's file may ask of the memory."""

import gzip
import tracemalloc

import pytest

from tsrec_hf import load_table
from tsrec_hf.items.readers import packed
from tsrec_hf.items.readers.packed import open_plain_or_gzip


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    monkeypatch.setattr(packed, "LONGEST_LINE", 1000)
    monkeypatch.setattr(packed, "MOST_UNPACKED_ANYWAY", 100_000)


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_a_line_without_an_end(tmp_path, pack) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(pack(b"a" * 1000 + b"\n" + b"b" * 5000))
    with open_plain_or_gzip(path) as file:
        assert file.readline(3) == b"aaa" and file.readline() == b"a" * 997 + b"\n"
        with pytest.raises(ValueError, match="lines of at most 1,000 bytes in .*rows.jsonl, but found a longer one"):
            file.readline()
    with open_plain_or_gzip(path) as file, pytest.raises(ValueError, match="longer one. Write a row a line"):
        list(file)


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path) -> None:
    path = tmp_path / "items.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 20_000_000))
    for read in (lambda file: file.read(), lambda file: [file.read(1000) for _ in range(20_000)]):
        tracemalloc.start()
        with open_plain_or_gzip(path) as file, pytest.raises(ValueError, match="items.jsonl.gz to unpack to at most"):
            read(file)
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
        tracemalloc.stop()
    with open_plain_or_gzip(path) as file, pytest.raises(ValueError, match="unpack to at most"):
        list(file)
    rows = {"items.csv": (b"item_id,title\n", b"1,a\n"), "items.jsonl": (b"", b'{"item_id": 1, "title": "a"}\n')}
    for name, (header, row) in rows.items():
        (tmp_path / name).write_bytes(gzip.compress(header + row * 1_000_000))
        with pytest.raises(ValueError, match="to unpack to at most"):
            load_table(None, tmp_path / name)


def test_what_data_sets_hold_is_read(tmp_path) -> None:
    rows = "item_id,title\n" + "".join(f"{number},thing {number * 7919 % 1000}\n" for number in range(20_000))
    path = tmp_path / "items.csv"
    path.write_bytes(gzip.compress(rows.encode()))
    assert len(rows) > 100_000 and len(load_table(None, path).items) == 20_000
