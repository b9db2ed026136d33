"""JSON documents and folders of Parquet files."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from tsrec_hf.items import load_table


ROWS = [{"item_id": "1", "title": "Nut", "tags": ["a"]}, {"item_id": "2", "title": "Saw"}]


def catalogue(path, **options):
    log = load_table(None, path, untitled="keep", **options)
    return dict(zip(log.items["item_id"][:], log.items["title"][:]))


def write(tmp_path, text, name="items.json"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["items.json", "items.jsonl", "items.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "document",
    [
        ROWS,
        {"items": ROWS},
        {"item_id": ["1", "2"], "title": ["Nut", "Saw"]},
        json.loads(pd.DataFrame(ROWS).to_json()),
        {"item_id": {"0": "1", "1": "2"}, "title": {"1": "Saw", "0": "Nut"}},
    ],
    ids=["array", "array in an object", "columns", "data frame", "keys in another order"],
)
def test_one_document(tmp_path, document, indent, name):
    text = "\ufeff" + json.dumps(document, indent=indent)
    assert catalogue(write(tmp_path, text, name)) == {"1": "Nut", "2": "Saw"}


@pytest.mark.parametrize("indent", [None, 2])
def test_objects_by_their_ids(tmp_path, indent):
    path = write(tmp_path, json.dumps({"B1": {"title": "Nut", "price": 1}, "B2": {"title": None}}, indent=indent))
    assert catalogue(path, item_columns={"item_id": "key"}) == {"B1": "Nut", "B2": ""}
    with pytest.raises(ValueError, match=r"\['item_id'\] are missing from \['title', 'price', 'key'\]"):
        catalogue(path)
    path = write(tmp_path, json.dumps({"B1": {"title": "Nut", "key": "K7"}, "B2": {"title": None}}, indent=indent))
    assert catalogue(path, item_columns={"item_id": "key"}) == {"B1": "Nut", "B2": ""}


def test_one_line_is_one_row(tmp_path):
    assert catalogue(write(tmp_path, '{"item_id": 1, "title": "Nut"}')) == {"1": "Nut"}
    assert catalogue(write(tmp_path, "{'item_id': 1, 'title': u'Nut'}\n{'item_id': 2, 'title': None}\n")) == {
        "1": "Nut",
        "2": "",
    }


def test_a_field_that_the_first_line_lacks_is_a_column(tmp_path):
    path = write(tmp_path, '{"item_id": "1"}\n{"item_id": "2", "title": "Saw"}\n', "items.jsonl")
    assert catalogue(path) == {"1": "", "2": "Saw"}
    path = write(tmp_path, '{"item_id": "1"}\n{"item_id": "2", "name": "Saw"}\n', "items.jsonl")
    with pytest.raises(ValueError, match=r"\['title'\] are missing from \['item_id'\]"):
        catalogue(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"item_id": "1",\n "title": "Nut"},\n {"item_id": ', "one JSON document in .*items.json.*line 3 cannot be"),
        ('{\n"item_id": "1",\n"title": "Nut"\n}\n{\n"item_id": "2"\n}\n', "line 5 cannot be read.*one object a line"),
        (
            '[{"item_id": "1", "title": "Nut"}, {"item_id": {}}]',
            "'item_id' of .*entry 2, to be a string or an integer",
        ),
        ("[1, 2]", "an object in .*entry 1, but found '1'.*`load_sequences`"),
        ("[]", "it has none"),
        ('{"item_id": ["1"], "title": []}', "columns of one length .*'item_id': 1, 'title': 0"),
        (
            '{"item_id": {"0": "1", "1": "2"}, "title": {"0": "Nut", "2": "Saw"}}',
            r"""columns of the same keys in .*json, but '\["1", "2"\]' are keys of either 'item_id' or 'title'""",
        ),
    ],
)
def test_documents_that_cannot_be_read(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        catalogue(write(tmp_path, text))


class TestParquetParts:
    def write(self, folder, **parts):
        folder.mkdir(exist_ok=True)
        (folder / "_SUCCESS").touch()
        for name, columns in parts.items():
            pyarrow.parquet.write_table(pa.table(columns), folder / f"{name}.snappy.parquet")
        return folder

    def test_are_one_table(self, tmp_path):
        a, b = ({"item_id": [one], "title": [title]} for one, title in ((1, "Nut"), (2, "Saw")))
        folder = self.write(tmp_path / "items.parquet", **{"part-0": a, "part-1": b, ".part-2": a})
        assert catalogue(folder) == {"1": "Nut", "2": "Saw"}

    def test_of_partitions_and_types_that_widen(self, tmp_path):
        folder = tmp_path / "items"
        self.write(folder)
        self.write(folder / "day=1", part={"item_id": pa.array([1], pa.int32()), "title": ["Nut"]})
        self.write(folder / "day=2", part={"item_id": pa.array([2], pa.int64()), "title": pa.nulls(1)})
        assert catalogue(folder) == {"1": "Nut", "2": ""}

    def test_that_do_not_fit_are_named(self, tmp_path):
        folder = self.write(tmp_path / "items", a={"item_id": ["1"], "title": ["Nut"]}, b={"item_id": ["2"]})
        with pytest.raises(ValueError, match="in every part, as .*a.snappy.parquet has them, but .*b.snappy.parquet"):
            catalogue(folder)
        self.write(folder, b={"item_id": ["2"], "title": [[1]]})
        with pytest.raises(ValueError, match="The Parquet files of .*items are of different types"):
            catalogue(folder)
        with pytest.raises(FileNotFoundError, match="Parquet files in the folder .*empty, but found none"):
            catalogue(self.write(tmp_path / "empty"))
