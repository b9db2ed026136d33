import importlib.util
import logging
from pathlib import Path

import pyarrow as pa
import pytest

from tsrec_hf.items import chronological_split, load_recbole, tidy


ITEM_FILE = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\tvector:float_seq\n"
    "1\tToy Story\t1995\tAnimation Comedy\t9.5\t0.5 1\n"
    '2\t"Misérables", Les\t\t\t\t\n'
)
INTER_FILE = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t2\t3\t881250949\n186\t1\t4.5\t8.9e8\n"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "toy")


def write(folder, item=ITEM_FILE, inter=INTER_FILE, name="toy"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.item").write_text(item, encoding="utf-8")
    (folder / f"{name}.inter").write_text(inter, encoding="utf-8")
    return folder


def test_reads_typed_fields(folder):
    data = load_recbole(folder)
    assert data.items.to_list() == [
        {
            "item_id": "1",
            "title": "Toy Story",
            "description": "",
            "release_year": "1995",
            "class": ["Animation", "Comedy"],
            "price": 9.5,
            "vector": [0.5, 1.0],
        },
        {
            "item_id": "2",
            "title": '"Misérables", Les',
            "description": "",
            "release_year": "",
            "class": [],
            "price": None,
            "vector": [],
        },
    ]
    assert data.interactions.to_dict() == {
        "user_id": ["196", "186"],
        "item_id": ["2", "1"],
        "timestamp": [881250949.0, 8.9e8],
        "rating": [3.0, 4.5],
    }
    assert data.interactions.data.schema.field("timestamp").type == pa.float64()


def test_takes_the_folder_or_the_common_name(folder):
    write(folder, name="other", item=ITEM_FILE.replace("Toy Story", "Heat"))
    # Two data sets in one folder: the folder's own name wins.
    assert load_recbole(str(folder)).items[0]["title"] == "Toy Story"
    assert load_recbole(folder / "other").items[0]["title"] == "Heat"


def test_a_folder_with_several_data_sets_asks_which(tmp_path):
    write(tmp_path, name="a")
    write(tmp_path, name="b")
    with pytest.raises(FileNotFoundError, match=r"found \['a', 'b'\]. Pass the folder and the name"):
        load_recbole(tmp_path)


def test_missing_files_are_named(folder, tmp_path):
    (folder / "toy.item").unlink()
    with pytest.raises(FileNotFoundError, match="toy.inter and toy.item in .*, but toy.item is missing"):
        load_recbole(folder)
    with pytest.raises(FileNotFoundError, match="but nowhere.inter is missing"):
        load_recbole(tmp_path / "nowhere")


def test_min_rating_of_tidy_keeps_ratings_from_there_on(folder):
    assert tidy(load_recbole(folder), min_rating=4.5).interactions["user_id"][:] == ["186"]
    assert len(tidy(load_recbole(folder), min_rating=3).interactions) == 2


def test_a_rating_that_is_missing_is_below_every_minimum(tmp_path):
    folder = write(tmp_path / "toy", inter=INTER_FILE.replace("4.5", ""))
    assert load_recbole(folder).interactions["rating"][:] == [3.0, None]
    assert tidy(load_recbole(folder), min_rating=0).interactions["user_id"][:] == ["196"]


@pytest.mark.parametrize(
    ("header", "title_field", "title"),
    [
        ("item_id:token\ttitle:token\tother_title:token", None, "A B"),
        ("item_id:token\tother_title:token\tname:token", None, "A B"),
        ("item_id:token\tother_title:token\tname:token_seq", "name", "C D"),
    ],
)
def test_where_the_title_comes_from(tmp_path, header, title_field, title):
    folder = write(tmp_path / "toy", item=f"{header}\n1\tA B\tC D\n2\tE\tF\n")
    items = load_recbole(folder, title_field=title_field).items
    assert items[0]["title"] == title
    assert len(items.column_names) == 4


@pytest.mark.parametrize(
    ("header", "title_field", "message"),
    [
        (
            "item_id:token\ta_title:token\tb_title:token",
            None,
            r"found \['a_title', 'b_title'\] among .* `title_field`",
        ),
        ("item_id:token\tname:token\tb:token", None, "one field whose name ends in 'title', but found none"),
        ("item_id:token\ttitle:token\tb:token", "name", "the field 'name', but found none"),
    ],
)
def test_a_title_that_cannot_be_found_asks_for_its_name(tmp_path, header, title_field, message):
    folder = write(tmp_path / "toy", item=f"{header}\n1\tA B\tC D\n2\tE\tF\n")
    with pytest.raises(ValueError, match=message):
        load_recbole(folder, title_field=title_field)


def test_a_description_of_words_stays_text(tmp_path):
    folder = write(tmp_path / "toy", item="item_id:token\ttitle:token\tdescription:token_seq\n1\tA\tone two\n2\tB\t\n")
    assert load_recbole(folder).items["description"][:] == ["one two", ""]


def test_items_without_a_title_are_counted(tmp_path, caplog):
    folder = write(tmp_path / "toy", item="item_id:token\ttitle:token\n1\t\n2\tB\n")
    with caplog.at_level(logging.WARNING):
        assert load_recbole(folder).items["title"][:] == ["", "B"]
    assert "1 of 2 items" in caplog.text


def test_what_cannot_be_used_is_left_to_tidy(tmp_path, caplog):
    item = ITEM_FILE.replace("9.5\t0.5 1", "-\t0.5 x") + "1\tAgain\t\t\t+3\t\n"
    inter = INTER_FILE + "1\t77\t3\t1\n2\t88\t3\t1\n3\t1\t3\t\n4\t1\t3\tMay\n196\t2\t3\t881250949\n"
    log = load_recbole(write(tmp_path / "toy", item=item, inter=inter))
    assert len(log.items) == 3 and len(log.interactions) == 7
    assert log.items["price"][:] == [None, None, 3.0] and log.items["vector"][0] == [0.5, None]
    [told] = [record.getMessage() for record in caplog.records if "toy.item" in record.getMessage()]
    assert "not numbers" in told and "1 of field 'price', 1 of field 'vector'" in told
    before, counts = log.summary.stages[0], {}
    for stage in tidy(log).summary.stages[1:]:
        counts[stage.name] = (before.items - stage.items, before.interactions - stage.interactions)
        before = stage
    assert counts["repeated item ids dropped"] == (1, 0)
    assert counts["interactions without user, item or time dropped"] == (0, 2)
    assert counts["interactions with unknown items dropped"] == (0, 2)
    assert counts["repeated user, item and time dropped"] == (0, 1)


@pytest.mark.parametrize(
    ("item", "inter", "message"),
    [
        (
            ITEM_FILE.replace("item_id", "id"),
            INTER_FILE,
            r"toy.item to have the fields .*\['item_id'\] are missing from",
        ),
        (
            ITEM_FILE,
            INTER_FILE.replace("timestamp", "time"),
            r"toy.inter .*\['timestamp'\] are missing from \['user_id'",
        ),
        (
            ITEM_FILE,
            INTER_FILE.replace("timestamp:float", "timestamp:token"),
            "'timestamp' .*type `float`, but it was read as `string`",
        ),
        (
            ITEM_FILE,
            INTER_FILE.replace("item_id:token", "item_id:float"),
            "toy.inter .*type `token`, but it was read as `double`",
        ),
        (
            ITEM_FILE.replace("item_id:token", "item_id:float"),
            INTER_FILE,
            "toy.item .*`token`, but it was read as `double`",
        ),
        (ITEM_FILE, INTER_FILE + "1\t2\n", r"toy.inter is not a table .*'.t': line 4 has 2, the .* 4"),
        (ITEM_FILE, INTER_FILE + "1\t2\t3\t4\t5\n", "toy.inter is not a table .*line 4 has 5, the .* 4"),
        (ITEM_FILE, INTER_FILE.replace("rating:float", "rating"), r"`name:type`.* Correct \['rating'\]"),
        (ITEM_FILE, INTER_FILE.replace("rating:float", "rating:int"), r"`name:type`.* Correct \['rating:int'\]"),
        (ITEM_FILE, INTER_FILE.replace("rating:float", "item_id:token"), "Correct the repeated names"),
        (ITEM_FILE, "", "toy.inter to list distinct fields as `name:type`"),
    ],
)
def test_malformed_files_are_named(tmp_path, item, inter, message):
    with pytest.raises(ValueError, match=message):
        load_recbole(write(tmp_path / "toy", item=item, inter=inter))


def test_min_rating_needs_ratings(tmp_path):
    folder = write(tmp_path / "toy", inter="user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n")
    assert len(load_recbole(folder).interactions) == 1
    with pytest.raises(ValueError, match=r"\['rating'\] are missing"):
        tidy(load_recbole(folder), min_rating=1)
    folder = write(tmp_path / "toy", inter=INTER_FILE.replace("rating:float", "rating:token"))
    with pytest.raises(TypeError, match="'rating' .* numbers for `min_rating=1`, but found string"):
        tidy(load_recbole(folder), min_rating=1)


def test_other_encodings(folder):
    (folder / "toy.item").write_bytes(ITEM_FILE.encode("latin-1"))
    with pytest.raises(ValueError, match="toy.item is not a UTF-8 table: line 3 .*Pass its `encoding`"):
        load_recbole(folder)
    assert load_recbole(folder, encoding="latin-1").items[1]["title"] == '"Misérables", Les'


def test_fields_of_other_names(tmp_path):
    item = "nr:token\tname:token_seq\tshort:token_seq\tlong:token\tprice:float\n"
    item += "1\tToy Story\tfor kids\tand all\t2\n2\tB\t\t\t3\n"
    inter = "who:token\tnr:token\tstars:float\twhen:float\n196\t2\t3\t881250949\n"
    folder = write(tmp_path / "toy", item=item, inter=inter)
    items = {"item_id": "nr", "title": "name", "description": ["short", "long"]}
    log = {"user_id": "who", "item_id": "nr", "timestamp": "when", "rating": "stars"}
    data = load_recbole(folder, item_columns=items, interaction_columns=log)
    assert data.items.to_list() == [
        {"item_id": "1", "title": "Toy Story", "description": "for kids and all", "price": 2.0},
        {"item_id": "2", "title": "B", "description": "", "price": 3.0},
    ]
    assert data.interactions.to_list() == [{"user_id": "196", "item_id": "2", "timestamp": 881250949.0, "rating": 3.0}]
    in_order = load_recbole(folder, item_columns=items, interaction_columns={**log, "timestamp": None})
    assert in_order.interactions[0]["timestamp"] == 0.0
    with pytest.raises(ValueError, match=r"\['title'\] are missing from \['nr', 'name'.*--item_columns title="):
        load_recbole(folder, item_columns={**items, "title": "title"})
    with pytest.raises(ValueError, match=r"\['timestamp'\] are missing from .*`timestamp=none`. says"):
        load_recbole(folder, item_columns=items, interaction_columns={"user_id": "who", "item_id": "nr"})


def test_byte_order_mark_and_windows_line_ends(folder):
    for name in ("toy.item", "toy.inter"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    data = load_recbole(folder)
    assert data.items[1]["title"] == '"Misérables", Les'
    assert data.interactions["timestamp"][:] == [881250949.0, 8.9e8]


def test_movielens_100k_as_recbole_ships_it():
    spec = importlib.util.find_spec("recbole")
    if spec is None:
        pytest.skip("needs the MovieLens sample of the `recbole` package: pip install recbole --no-deps")
    folder = Path(spec.submodule_search_locations[0], "dataset_example", "ml-100k")
    items, interactions = load_recbole(folder)
    assert (len(items), len(interactions)) == (1_682, 100_000)
    assert items[0] == {
        "item_id": "1",
        "title": "Toy Story",
        "description": "",
        "release_year": "1995",
        "class": ["Animation", "Children's", "Comedy"],
    }
    assert "Cérémonie, La" in items["title"][:]
    assert interactions[0] == {"user_id": "196", "item_id": "242", "timestamp": 881250949.0, "rating": 3.0}
    assert len(tidy(load_recbole(folder / "ml-100k"), min_rating=4).interactions) == 55_375
    # 943 users: all but their first interactions are targets.
    assert chronological_split(interactions).num_rows == {"train": 79_245, "valid": 9_906, "test": 9_906}
