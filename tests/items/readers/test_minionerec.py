import json
import os
import shutil
import time
from pathlib import Path

import pytest
from datasets import Dataset

from tsrec_hf.items import RecommendationDataset, load_minionerec, save_minionerec
from tsrec_hf.models import SIDIndex


ITEMS = {
    "0": {
        "title": "Nuts &amp; bolts",
        "description": "['M6,', 'zinc &ndash; plated']",
        "brand": "Acme",
        "categories": "",
    },
    "1": {"title": "Hand saw", "description": "", "brand": "", "categories": ["Tools", "Saws"]},
    "2": {"title": "Glue", "description": "It's glue [new]", "brand": "Acme", "categories": ""},
}
INDEX = {"0": ["<a_4>", "<b_1>"], "1": ["<a_4>", "<b_3>"], "2": ["<a_7>", "<b_1>"]}
HEADER = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid\n"
ROWS = [
    """A2,"['Hand saw']",Glue,[1],2,['<a_4><b_3>'],<a_7><b_1>\n""",
    """A1,"['Hand saw', 'Glue']","Nuts, bolts","[1, 2]",0,"['<a_4><b_3>', '<a_7><b_1>']",<a_4><b_1>\n""",
]

INDUSTRIAL = os.environ.get("TSREC_DATA")
needs_data = pytest.mark.skipif(
    not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific"
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "Toys"
    folder.mkdir()
    (folder / "item.json").write_text(json.dumps(ITEMS))
    (folder / "index.json").write_text(json.dumps(INDEX))
    for split in ("train", "valid", "test"):
        (folder / f"{split}.csv").write_text(HEADER + "".join(ROWS))
    return folder


def test_reads_ids_as_strings_in_the_order_of_the_file(folder):
    dataset = load_minionerec(folder)
    assert dataset.name == "Toys"
    assert dataset.train.to_dict() == {
        "user_id": ["A2", "A1"],
        "history": [["1"], ["1", "2"]],
        "target": ["2", "0"],
    }
    assert dataset.sid_index.sid_of("2") == "<a_7><b_1>"
    assert dataset.sid_index.titles == ["Nuts & bolts", "Hand saw", "Glue"]
    assert dataset.sid_index.counts.tolist() == [1, 0, 1] and dataset.max_history == 10


def test_longer_histories_than_minionerecs_own_are_told(folder):
    (folder / "valid.csv").write_text(HEADER + ROWS[0].replace("[1],2", f'"{[1] * 12}",2'))
    assert load_minionerec(folder).max_history == 12


def test_texts_are_plain(folder):
    items = load_minionerec(str(folder)).items
    assert items.column_names == ["item_id", "title", "description", "brand", "categories"]
    assert items["title"][:] == ["Nuts & bolts", "Hand saw", "Glue"]
    assert items["description"][:] == ["M6, zinc \u2013 plated", "", "It's glue [new]"]
    assert items["categories"][:] == ["", "Tools, Saws", ""]


@pytest.mark.parametrize(
    ("description", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        ([], ""),
        ("[]", ""),
        ("['']", ""),
        (["one", None, "two &nbsp; three"], "one two three"),
        ("['one', \"it's two\"]", "one it's two"),
        (r"['one\ntwo']", "one two"),
        # As in the published file: quotes that lost their backslashes, so this is no Python literal.
        ("['for it's life', 'two \\n three']", "for it's life two three"),
        ('["Dolly 18" X 12""]', 'Dolly 18" X 12"'),
        ("[2 pieces] screws", "[2 pieces] screws"),
    ],
)
def test_descriptions_in_every_form_they_come_in(folder, description, text):
    items = {**ITEMS, "1": {"title": "Hand saw", "description": description}}
    (folder / "item.json").write_text(json.dumps(items))
    assert load_minionerec(folder).items[1]["description"] == text


def test_ids_may_be_text(folder):
    for name in ("item.json", "index.json"):
        entries = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({f"B0{item}": entry for item, entry in entries.items()}))
    for split in ("train", "valid", "test"):
        (folder / f"{split}.csv").write_text(
            "item_sid,item_id,history_item_id,user_id\n<a_7><b_1>,B02,\"['B01', 'B00']\",7\n"
        )
    dataset = load_minionerec(folder)
    assert dataset.test[0] == {"user_id": "7", "history": ["B01", "B00"], "target": "B02"}


def test_words_that_pandas_takes_for_missing_values_stay_words(folder):
    (folder / "train.csv").write_text(HEADER + ROWS[0].replace("A2", "NA"))
    assert load_minionerec(folder).train[0]["user_id"] == "NA"


def test_a_missing_folder_or_file_names_the_layout(folder):
    with pytest.raises(
        FileNotFoundError, match="train.csv, valid.csv, test.csv, item.json and index.json at .*nowhere"
    ):
        load_minionerec(folder / "nowhere")
    (folder / "valid.csv").unlink()
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match="but index.json, valid.csv is missing"):
        load_minionerec(folder)


def test_a_csv_without_a_column_names_it_the_file_and_what_there_is(folder):
    (folder / "valid.csv").write_text("user,history_item_id,item_id,item_sid\nA2,[1],2,<a_7><b_1>\n")
    with pytest.raises(
        ValueError, match=r"valid.csv to have .*\['user_id'\] are missing from \['user', 'history_item_id'"
    ):
        load_minionerec(folder)


def test_an_index_of_another_catalogue_never_passes(folder):
    (folder / "index.json").write_text(json.dumps({**INDEX, "0": ["<a_4>", "<b_9>"]}))
    with pytest.raises(
        ValueError,
        match=r"train.csv, line 3, item '0' has '<a_4><b_1>', where index.json has '<a_4><b_9>'; 1 of 2 rows disagree",
    ):
        load_minionerec(folder)


def test_an_item_without_a_sid_is_an_error(folder):
    (folder / "index.json").write_text(json.dumps({item: INDEX[item] for item in "12"}))
    with pytest.raises(
        ValueError, match="train.csv, line 3, item '0' has '<a_4><b_1>', where index.json has no such item"
    ):
        load_minionerec(folder)
    for split in ("train", "valid", "test"):
        (folder / f"{split}.csv").write_text(HEADER + ROWS[0])
    with pytest.raises(ValueError, match="1 items have no SID, for example '0'"):
        load_minionerec(folder)


def test_an_item_that_item_json_does_not_hold_is_an_error(folder):
    (folder / "item.json").write_text(json.dumps({item: ITEMS[item] for item in "02"}))
    with pytest.raises(ValueError, match="row 0 of `train` has '1' in `history`"):
        load_minionerec(folder)


def test_an_item_without_a_title_is_an_error(folder):
    (folder / "item.json").write_text(json.dumps({**ITEMS, "2": {"description": "sticky"}}))
    with pytest.raises(
        ValueError, match="`title` for every item of .*item.json, but 1 have none, for example item '2'"
    ):
        load_minionerec(folder)


@pytest.mark.parametrize(
    ("literal", "message"),
    [
        ('"[1, 2"', r"Python list such as \[117, 118\], but .*test.csv, line 5, has '\[1, 2'"),
        # Run by `eval`, this would be a list of one number.
        ("[__import__('os').getpid()]", r"Python list such as .*line 5, has \"\[__import__"),
        ('"1, 2"', r"list of at least one item id, but .*test.csv, line 5, has '1, 2'"),
        ("1", "list of at least one item id, but .*line 5, has '1'"),
        ("[]", r"list of at least one item id, but .*line 5, has '\[\]'"),
        ("[1.5]", r"list of at least one item id, but .*line 5, has '\[1.5\]'"),
        ("[[1]]", r"list of at least one item id, but .*line 5, has '\[\[1\]\]'"),
        ("", "line 5, has ''"),
    ],
)
def test_a_malformed_history_names_file_and_line(folder, literal, message):
    # The first row's title holds a line break, so the second row begins on line 5 and not on line 3.
    first = ROWS[0].replace("Glue", '"Glue\n\nstick"')
    (folder / "test.csv").write_text(HEADER + first + f"A1,x,y,{literal},0,x,<a_4><b_1>\n")
    with pytest.raises(ValueError, match=message):
        load_minionerec(folder)


def test_a_csv_cut_anywhere_in_a_row_never_passes(folder):
    whole = HEADER + "".join(ROWS)
    # The last cut leaves out the line break alone, which loses nothing.
    for length in range(len(HEADER + ROWS[0]) + 1, len(whole) - 1):
        (folder / "train.csv").write_text(whole[:length])
        with pytest.raises(ValueError, match="train.csv"):
            load_minionerec(folder)


@pytest.mark.parametrize("content", ["", "\x00\x01"])
def test_a_csv_that_is_none_names_the_file(folder, content):
    (folder / "valid.csv").write_text(content)
    with pytest.raises(ValueError, match="valid.csv"):
        load_minionerec(folder)


@pytest.mark.parametrize("name", ["item.json", "index.json"])
def test_truncated_json_says_what_to_do(folder, name):
    file = folder / name
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match=f"{name} is not valid JSON .* truncated: fetch or write it again"):
        load_minionerec(folder)


def test_item_json_is_an_object(folder):
    (folder / "item.json").write_text("[]")
    with pytest.raises(ValueError, match="item.json to hold an object"):
        load_minionerec(folder)


@needs_data
def test_industrial_and_scientific():
    start = time.perf_counter()
    dataset = load_minionerec(INDUSTRIAL)
    assert time.perf_counter() - start < 15
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (36_259, 4_532, 4_533)
    assert len(dataset.items) == len(dataset.sid_index) == 3_686
    assert dataset.sid_index.level_sizes == (48, 256, 256)
    assert dataset.train[0] == {"user_id": "A22", "history": ["117"], "target": "118"}
    lengths = [len(history) for history in dataset.test["history"][:]]
    assert max(lengths) == 10 and sum(lengths) / len(lengths) == pytest.approx(4.96, abs=0.005)
    descriptions = dataset.items["description"][:]
    assert not any(text.startswith(("['", '["')) or "&ndash;" in text or "\\n" in text for text in descriptions)
    assert descriptions[2302].startswith("HBD Thermoid NBR/PVC SAE30R6 Fuel Line Hose, 5/16\" x 25' Length")


@needs_data
def test_industrial_with_one_row_of_the_index_changed(tmp_path):
    folder = shutil.copytree(Path(INDUSTRIAL), tmp_path / "copy", copy_function=shutil.copyfile)
    folder.chmod(0o755)
    index = json.loads((folder / "index.json").read_text())
    index["118"], index["117"] = index["117"], index["118"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="train.csv, line 2, item '118' has '<a_104><b_118><c_176>'"):
        load_minionerec(folder)


def test_what_is_saved_is_read(tmp_path):
    # Ids and texts that CSV files, JSON or the reader's cleaning could change.
    ids = ["007", 'a "quoted", id', "it's", "NA"]
    titles = ["Pen &notebook &amp; ink", "['list']", "5 < 6", "[1, 2]"]
    items = Dataset.from_dict({"item_id": ids, "title": titles, "description": ["x", "", "[]", "&lt;b>"]})
    rows = Dataset.from_dict({"user_id": ["u,1", "NA"], "history": [ids[:3], ["NA"]], "target": ["NA", "007"]})
    none = rows.select([])
    index = SIDIndex(ids, [[0, 0], [0, 1], [1, 0], [1, 1]], titles=titles)
    saved = RecommendationDataset(items, rows, none, rows, index)
    save_minionerec(saved, tmp_path / "new" / "mine")
    loaded = load_minionerec(tmp_path / "new" / "mine")
    assert loaded.items.select_columns(["item_id", "title", "description"]).to_dict() == items.to_dict()
    for split in ("train", "valid", "test"):
        assert getattr(loaded, split).to_dict() == getattr(saved, split).to_dict()
    assert loaded.sid_index == index and loaded.sid_index.fingerprint == index.fingerprint
    assert loaded.sid_index.titles == titles and loaded.name == "mine"


def test_saving_refuses(tmp_path):
    items = Dataset.from_dict({"item_id": ["1", "2"], "title": ["a", "b"]})
    rows = Dataset.from_dict({"user_id": ["u"], "history": [["1"]], "target": ["2"]})
    with pytest.raises(ValueError, match="a data set with a SID index"):
        save_minionerec(RecommendationDataset(items, rows, rows, rows), tmp_path / "mine")
    index = SIDIndex(["1", "2"], [[0, 0], [0, 1]])
    bare = Dataset.from_dict({"user_id": ["u", "v"], "history": [["1"], []], "target": ["2", "1"]})
    with pytest.raises(ValueError, match="every row of `test`, .* 1 have none, first row 1"):
        save_minionerec(RecommendationDataset(items, rows, rows, bare, index), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@needs_data
def test_industrial_comes_back(tmp_path):
    dataset = load_minionerec(INDUSTRIAL)
    save_minionerec(dataset, tmp_path)
    again = load_minionerec(tmp_path)
    assert again.items.to_dict() == dataset.items.to_dict() and again.test.to_dict() == dataset.test.to_dict()
    assert again.sid_index.fingerprint == dataset.sid_index.fingerprint
