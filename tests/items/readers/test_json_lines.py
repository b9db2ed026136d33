import gzip
import json

import pytest

from tsrec_hf.items.readers import json_lines
from tsrec_hf.items.readers.json_lines import first_json_line, read_json_lines


FIELDS = {"id": "id", "title": "text", "about": "texts", "rating": "number", "time": "time"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.jsonl"


def read(path, *lines, fields=FIELDS):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return read_json_lines(path, fields)


def test_reads_the_fields_and_nothing_else(path):
    row = '{"x": {"y": [1, "z"]}, "id": "7", "title": "Glue", "about": ["Strong"], "rating": 4, "time": 1.5}'
    table = read(path, row, '{"id": null}')
    assert table.column_names == list(FIELDS)
    assert table.to_pylist() == [
        {"id": "7", "title": "Glue", "about": ["Strong"], "rating": 4.0, "time": 1.5},
        dict.fromkeys(FIELDS),
    ]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("id", 12, "12"),
        ("id", 12345678901234567890123, "12345678901234567890123"),
        ("title", ["A", None, "B"], "A B"),
        ("title", 1984, "1984"),
        ("title", "half an emoji \ud83d", "half an emoji ?"),
        ("title", float("nan"), None),
        ("about", "one string", ["one string"]),
        ("about", [None, "a"], ["a"]),
        ("about", [["Toys", "Games"], ["More"]], ["Toys", "Games", "More"]),
        ("rating", float("nan"), None),
        ("time", "1970-01-02", 86400.0),
        ("time", "  ", None),
        ("time", "1970-01-01T01:00:00Z", 3600.0),
        ("time", "1970-01-01 01:00:00+01:00", 0.0),
    ],
)
def test_values_that_arrow_does_not_take_are_read_line_by_line(path, field, value, expected):
    table = read(path, '{"id": "a", "about": ["b"]}', json.dumps({field: value}), '{"id": "c"}')
    # Neighbours are read as ever.
    assert table["id"][0].as_py() == "a" and table["about"][0].as_py() == ["b"] and table["id"][2].as_py() == "c"
    found = table[field][1].as_py()
    assert found == expected or expected is None and (found is None or found != found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a"', 'JSON object in UTF-8 in .*, line 3, but found \'{"id": "a"\' .*truncated'),
        ("{'id': 'a'", "line 3.*truncated"),
        ("[1, 2]", r"a JSON object in .*, line 3, but found '\[1, 2\]'. Write one object a line"),
        # Arrow crashes on this one.
        ("null", "a JSON object in .*, line 3, but found 'null'"),
        ('{"id": "a"} null', "line 3.*Extra data"),
        ('{"id": "a"}{"id": "b"}', "line 3.*Extra data"),
        ("[" * 100_000, "line 3"),
        (b'{"id": "\xff"}', "line 3.*utf-8"),
        (b'{"title": "caf\xe9"}', "line 3.*utf-8"),
        (b"\x00\x00", "line 3"),
        ('{"id": 1.5}', "field 'id' of .*, line 3, to be a string or an integer, but found '1.5'"),
        ('{"id": true}', "field 'id' .*, line 3"),
        ('{"title": {"a": 1}}', "field 'title' .*, line 3, to be a string or a list of strings"),
        ('{"about": [{"a": 1}]}', "field 'about' .*, line 3, to be a list of strings or a string"),
        ('{"rating": "5"}', "field 'rating' .*, line 3, to be a number, but found '\"5\"'"),
        ('{"rating": true}', "field 'rating' .*, line 3"),
        ('{"time": "May 5"}', "field 'time' .*, line 3, to be a number or an ISO date such as"),
        # Without hyphens, Python would read a number of milliseconds as a date of the year 1512.
        ('{"time": "1512011212345"}', "field 'time' .*, line 3"),
    ],
)
def test_malformed_lines_are_named(path, line, message):
    with pytest.raises(ValueError, match=message):
        read(path, '{"id": "x"}', "", line, '{"id": "y"}')


def test_lines_are_counted_over_blocks(path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 50)
    lines = [json.dumps({"id": str(number), "about": ["word"] * (number % 7)}) for number in range(100)]
    assert read(path, *lines)["id"].to_pylist() == [str(number) for number in range(100)]
    lines[70] = lines[70][:-1]
    with pytest.raises(ValueError, match="line 71,"):
        read(path, *lines)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_line_ends_blank_lines_and_byte_order_mark(path, ends):
    path.write_bytes(("\ufeff" + ends.join(['{"id": "a"}', "", " ", '{"id": "b"}', ""])).encode())
    assert read_json_lines(path, {"id": "id"})["id"].to_pylist() == ["a", "b"]
    path.write_bytes(("\ufeff" + ends.join(['{"id": "a"}', '{"id": "b"}'])).encode())
    assert read_json_lines(path, {"id": "id"})["id"].to_pylist() == ["a", "b"]


def test_gzip_is_told_by_the_first_bytes(path):
    packed = gzip.compress(b'{"id": "a"}\n')
    # Members that were packed one by one and put together are one file.
    path.write_bytes(packed + packed)
    assert read_json_lines(path, {"id": "id"})["id"].to_pylist() == ["a", "a"]
    plain = path.with_suffix(".gz")
    plain.write_bytes(b'{"id": "b"}\n')
    assert read_json_lines(plain, {"id": "id"})["id"].to_pylist() == ["b"]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-20], lambda data: data[:-8] + b"\0" * 8, lambda data: data[:40] + b"garbage" + data[47:]],
)
def test_damaged_gzip_is_an_error(path, damage):
    path.write_bytes(damage(gzip.compress(b"".join(b'{"id": "%d"}\n' % number for number in range(1000)))))
    with pytest.raises(ValueError, match="rows.jsonl cannot be unpacked .*fetch it again"):
        read_json_lines(path, {"id": "id"})


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0)])
def test_empty_files_are_an_error(path, content):
    path.write_bytes(content)
    for read in (lambda: read_json_lines(path, {"id": "id"}), lambda: first_json_line(path)):
        with pytest.raises(ValueError, match="but it is empty"):
            read()


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(FileNotFoundError, match="Expected a file at .*Check the path"):
            read_json_lines(path, {"id": "id"})
