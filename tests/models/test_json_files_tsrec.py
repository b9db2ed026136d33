import json

import pytest

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.json_files_tsrec import read_json


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1, "a": 2}', "every name once in an object of .*x.json, but 'a' occurs twice. Remove one"),
        (b'[{"b": {"a": 1, "a": 2}}]', "'a' occurs twice"),
        (b'["nut \\ud83d"]', "half of a surrogate pair behind '..nut '"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b"[" * 20_000, "x.json is not valid JSON .*recursion.* fetch or write it again"),
        (b'{"a": [1', "x.json is not valid JSON"),
        (b"\xff\xfe[", "x.json is not valid JSON .*utf-8"),
        (b"", "x.json is not valid JSON"),
    ],
)
def test_every_fault_has_its_words(tmp_path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_json(path)


def test_what_is_right_is_read(tmp_path) -> None:
    path = tmp_path / "x.json"
    value = {"ä": ["\U0001f600", "\\ud83d", 1.5, None], "b": {"a": 1}, "c": {"a": 2}}
    for ensure_ascii in (True, False):
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=ensure_ascii).encode())
        assert read_json(path) == value
    with pytest.raises(FileNotFoundError, match="Expected a JSON file at .*none.json"):
        read_json(tmp_path / "none.json")


def test_an_index_that_names_an_item_twice(tmp_path) -> None:
    (tmp_path / "index.json").write_text('{"7": ["<a_0>", "<b_0>"], "7": ["<a_0>", "<b_1>"]}')
    with pytest.raises(ValueError, match="index.json, but '7' occurs twice"):
        SIDIndex.from_json(tmp_path / "index.json")
