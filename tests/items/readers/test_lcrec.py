import json
import logging
import os
from pathlib import Path

import pytest
from datasets import Dataset

from tsrec_hf import load_lcrec, open_dataset, tidy
from tsrec_hf.items.readers.lcrec import read_lcrec


# The folders `scientific` and `beauty` lie beside the one of `TSREC_DATA`.
DATA = os.environ.get("TSREC_DATA")

SEQUENCES = {"10": [0, 1, 2, 3, 0], "11": [3, 2, 1], "12": [2, 0]}
ITEMS = {
    "0": {"title": "Nuts &amp; bolts", "description": "<b>Steel</b>", "brand": "Acme", "categories": "Tools,Metal"},
    "1": {"title": "Saw", "description": ["For", "wood"], "brand": None, "categories": ["Tools"]},
    "2": {"title": "", "description": "", "brand": "", "categories": ""},
    "3": {"title": "Glue"},
}
INDEX = {item_id: ["<a_1>", f"<b_{item_id}>", "<c_0>", "<d_7>"] for item_id in ITEMS}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, inter=SEQUENCES, item=ITEMS, index=INDEX)
    return tmp_path


def write(folder, **parts):
    for part, content in parts.items():
        (folder / f"Toy.{part}.json").write_text(json.dumps(content, indent=2 if part == "item" else None))


def test_sequences_items_and_published_sids(folder):
    dataset = load_lcrec(folder)
    assert dataset.name == "Toy" and dataset.max_history == 10
    assert dataset.items.to_list() == [
        {
            "item_id": "0",
            "title": "Nuts & bolts",
            "description": "Steel",
            "brand": "Acme",
            "categories": "Tools,Metal",
        },
        {"item_id": "1", "title": "Saw", "description": "For wood", "brand": "", "categories": "Tools"},
        {"item_id": "2", "title": "", "description": "", "brand": "", "categories": ""},
        {"item_id": "3", "title": "Glue", "description": "", "brand": "", "categories": ""},
    ]
    rows = {split: getattr(dataset, split).to_list() for split in ("train", "valid", "test")}
    # The last is tested, the one before it validates; a user of two is for training alone.
    assert sorted((row["user_id"], row["history"], row["target"]) for row in rows["test"]) == [
        ("10", ["0", "1", "2", "3"], "0"),
        ("11", ["3", "2"], "1"),
    ]
    assert sorted((row["user_id"], row["history"], row["target"]) for row in rows["valid"]) == [
        ("10", ["0", "1", "2"], "3"),
        ("11", ["3"], "2"),
    ]
    assert sorted((row["user_id"], row["history"], row["target"]) for row in rows["train"]) == [
        ("10", ["0"], "1"),
        ("10", ["0", "1"], "2"),
        ("12", ["2"], "0"),
    ]
    index = dataset.sid_index
    assert index.num_levels == 4 and index.sid_of("2") == "<a_1><b_2><c_0><d_7>"
    assert index.titles == ["Nuts & bolts", "Saw", "", "Glue"]


def test_the_raw_log_is_for_new_sids(folder):
    log = read_lcrec(folder)
    assert log.items[0]["title"] == "Nuts &amp; bolts"
    assert log.interactions.to_list()[3:6] == [
        {"user_id": "10", "item_id": "3", "timestamp": 3.0},
        {"user_id": "10", "item_id": "0", "timestamp": 4.0},
        {"user_id": "11", "item_id": "3", "timestamp": 0.0},
    ]
    assert len(tidy(log).items) == 3


def test_titles_in_a_table_beside(folder):
    (folder / "Toy.item.json").unlink()
    (folder / "items.csv").write_text('item_id,title\n0,"Nut, steel"\n1,Saw\n2,\n3,Glue\n')
    assert load_lcrec(folder).items["title"][:] == ["Nut, steel", "Saw", "", "Glue"]
    names = Dataset.from_dict({"nr": [0, 1, 2, 3], "name": list("abcd")})
    columns = {"item_id": "nr", "title": "name"}
    assert load_lcrec(folder, names, columns).sid_index.titles == list("abcd")
    (folder / "items.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match="Toy.item.json in .*, or one table of titles .* found none. .*`items`"
    ):
        load_lcrec(folder)


def test_ids_that_count_from_another_number_are_refused(folder):
    names = Dataset.from_dict({"item_id": [1, 2, 3, 4], "title": list("abcd")})
    with pytest.raises(ValueError, match="Toy.inter.json and `items`, but the first has 0 to 3 and the second 1 to 4"):
        load_lcrec(folder, names)


def test_interactions_that_go_with_unknown_items_are_told(folder, caplog):
    write(folder, item={item_id: ITEMS[item_id] for item_id in "012"})
    load_lcrec(folder)
    [told] = [message for message in caplog.messages if "interactions of" in message]
    assert told.startswith("2 of 10 interactions of") and "(20.0%)" in told and told.endswith("such as ['3'].")


def test_fields_of_other_names(folder):
    write(folder, item={item_id: {"name": f"n{item_id}"} for item_id in ITEMS})
    with pytest.raises(ValueError, match=r"Toy.item.json to have the columns \['title'\].*from \['name', 'key'\]"):
        load_lcrec(folder)
    assert load_lcrec(folder, item_columns={"title": "name"}).items["title"][:] == ["n0", "n1", "n2", "n3"]


def test_one_of_several_files_of_sids(folder, caplog):
    (folder / "Toy.index.json").rename(folder / "Toy.index.rq.json")
    assert load_lcrec(folder).sid_index is not None
    other = {item_id: ["<a_0>", f"<b_{item_id}>"] for item_id in ITEMS}
    (folder / "Toy.index.km.json").write_text(json.dumps(other))
    with caplog.at_level(logging.WARNING):
        assert load_lcrec(folder).sid_index is None
    assert "['Toy.index.km.json', 'Toy.index.rq.json']: none is taken. Choose one by `index_file`" in caplog.text
    for dataset in (load_lcrec(folder, index_file="Toy.index.km.json"), open_dataset(folder / "Toy.index.km.json")):
        assert dataset.sid_index.num_levels == 2
    with pytest.raises(FileNotFoundError, match=r"Toy.index.json, but .*Choose one of \['Toy.index.km.json', 'Toy.i"):
        load_lcrec(folder, index_file="Toy.index.json")


def test_an_index_of_more_items_is_cut_and_one_of_fewer_refused(folder, caplog):
    write(folder, index={**INDEX, "9": ["<a_1>", "<b_9>", "<c_0>", "<d_7>"]})
    assert len(load_lcrec(folder).sid_index) == 4 and "1 items of" in caplog.text
    write(folder, index={item_id: sid for item_id, sid in INDEX.items() if item_id != "2"})
    with pytest.raises(ValueError, match="Toy.index.json, but 1 have none, for example '2'"):
        load_lcrec(folder)


def test_the_folder_or_the_common_name(folder):
    assert open_dataset(folder / "Toy").name == open_dataset(folder).name == "Toy"
    (folder / "Other.inter.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"found \['Other.inter.json', 'Toy.inter.json'\]. Pass the folder and"
    ):
        load_lcrec(folder)
    with pytest.raises(
        FileNotFoundError, match="X.inter.json, X.item.json and X.index.json in .*No.inter.json is mis"
    ):
        load_lcrec(folder / "No")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([["0", 1]], "an object of users and their items"),
        ({}, "an object of users and their items"),
        ({"a": []}, "every user's list is empty"),
        ({"a": {"0": 1}}, "a list of item ids for every user of .*Toy.inter.json.* user 'a' has .*load_table"),
        ({"a": [[0, 1]]}, "user 'a' has"),
    ],
)
def test_other_forms_of_sequences_say_what_was_expected(folder, content, words):
    write(folder, inter=content)
    with pytest.raises(ValueError, match=words):
        load_lcrec(folder)


def test_a_truncated_file_is_named(folder):
    (folder / "Toy.inter.json").write_text('{"0": [1, 2')
    with pytest.raises(ValueError, match="Toy.inter.json is not valid JSON"):
        load_lcrec(folder)
    write(folder, inter=SEQUENCES)
    (folder / "Toy.item.json").write_text('{\n "0": {"title": "a"},\n "1": {"ti')
    with pytest.raises(ValueError, match="Toy.item.json.*line 3 cannot be read.*truncated"):
        load_lcrec(folder)


@pytest.mark.skipif(not DATA, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific")
@pytest.mark.parametrize(
    ("name", "counts", "distinct"),
    [
        ("scientific/Scientific.index.rqvae_native.json", (58_492, 8_317, 4_344), 3_790),
        ("scientific/Scientific.index.letter_native.json", (58_492, 8_317, 4_344), 4_317),
        ("scientific/Scientific.index.rkmeans_native.json", (58_492, 8_317, 4_344), 3_469),
        ("beauty", (198_502, 22_363, 12_101), 12_088),
    ],
)
def test_published_data_sets(name, counts, distinct):
    path = Path(DATA).parents[1] / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    log = read_lcrec(path)
    users = len(set(log.interactions["user_id"][:]))
    assert (len(log.interactions), users, len(log.items)) == counts
    dataset = load_lcrec(path)
    assert len(dataset.test) == len(dataset.valid) == users and len(dataset.items) == counts[2]
    # Of each user the first is no target, the last two are for evaluation.
    assert len(dataset.train) == counts[0] - 3 * users
    assert dataset.sid_index.num_levels == 4
    assert len({tuple(codes) for codes in dataset.sid_index.codes.tolist()}) == distinct
