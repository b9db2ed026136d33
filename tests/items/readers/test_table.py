import gzip
import json
from datetime import datetime, timezone

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Image

from tsrec_hf.items import load_table


ORDERS = "customer,sku,day,stars,note\n1,007,2024-05-30,5,x\n1,008,2024-05-31,,y\n2,007,2024-05-30,2,\n"
SHOP = 'sku,name,short,long,maker\n007,"Glue, strong",Strong,"Dries\nfast",Acme\n008,NA,,Wide,\n'
ORDER_COLUMNS = {"user_id": "customer", "item_id": "sku", "timestamp": "day", "rating": "stars"}
SHOP_COLUMNS = {"item_id": "sku", "title": "name", "description": ["short", "long"], "brand": "maker"}
MAY_30 = datetime(2024, 5, 30, tzinfo=timezone.utc).timestamp()

ITEMS = Dataset.from_dict({"item_id": ["1", "2"], "title": ["Nut", "Saw"]})
LOG = Dataset.from_dict({"user_id": ["a", "b"], "item_id": ["1", "2"], "timestamp": [1, 2]})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "orders.csv").write_text(ORDERS)
    (tmp_path / "shop.csv").write_text(SHOP)
    return tmp_path


def load(folder, orders="orders.csv", shop="shop.csv", **kwargs):
    kwargs = {"interaction_columns": ORDER_COLUMNS, "item_columns": SHOP_COLUMNS, **kwargs}
    return load_table(folder / orders, folder / shop, **kwargs)


def check_shop(log):
    assert log.items.to_list() == [
        {"item_id": "007", "title": "Glue, strong", "description": "Strong Dries fast", "brand": "Acme"},
        {"item_id": "008", "title": "NA", "description": "Wide", "brand": ""},
    ]
    assert log.interactions.to_dict() == {
        "user_id": ["1", "1", "2"],
        "item_id": ["007", "008", "007"],
        "timestamp": [MAY_30, MAY_30 + 86400, MAY_30],
        "rating": [5.0, None, 2.0],
    }


def test_csv(folder):
    check_shop(load(folder))


def test_tsv_gzip_byte_order_mark_and_windows_line_ends(folder):
    (folder / "orders.tsv.gz").write_bytes(gzip.compress(ORDERS.replace(",", "\t").replace("\n", "\r\n").encode()))
    (folder / "shop.CSV").write_bytes(SHOP.encode("utf-8-sig"))
    check_shop(load(folder, "orders.tsv.gz", "shop.CSV"))


def test_json_lines(folder):
    orders = pd.read_csv(folder / "orders.csv", dtype={"sku": str})
    orders.to_json(folder / "orders.jsonl", orient="records", lines=True)
    shop = pd.read_csv(folder / "shop.csv", dtype=str, keep_default_na=False)
    shop.to_json(folder / "shop.json", orient="records", lines=True)
    check_shop(load(folder, "orders.jsonl", "shop.json"))


def test_parquet_and_datasets(folder):
    orders = pd.read_csv(folder / "orders.csv", dtype={"sku": str}, parse_dates=["day"])
    shop = pd.read_csv(folder / "shop.csv", dtype=str, keep_default_na=False)
    orders.to_parquet(folder / "orders.parquet")
    shop.to_parquet(folder / "shop.parquet")
    check_shop(load(folder, "orders.parquet", "shop.parquet"))
    check_shop(
        load_table(Dataset.from_pandas(orders), Dataset.from_pandas(shop), ORDER_COLUMNS, SHOP_COLUMNS),
    )


def test_descriptions_that_are_no_texts_are_left_out(tmp_path, caplog):
    rows = [{"item_id": "1", "title": "Nut", "description": {"a": 1}}]
    (tmp_path / "shop.jsonl").write_text(json.dumps(rows[0]))
    Dataset.from_list(rows).to_parquet(tmp_path / "shop.parquet")
    for shop in (tmp_path / "shop.jsonl", tmp_path / "shop.parquet", Dataset.from_list(rows)):
        caplog.clear()
        assert load_table(None, shop).items.to_list() == [{"item_id": "1", "title": "Nut", "description": ""}]
        assert "'description'" in caplog.text and "Left out, because nobody asked for it" in caplog.text
        with pytest.raises((TypeError, ValueError), match="'description'"):
            load_table(None, shop, item_columns={"description": "description"})


def test_ratings_that_are_no_numbers_are_left_out(caplog):
    for rating in ("good", "5", [5]):
        caplog.clear()
        log = load_table(LOG.add_column("rating", [rating] * 2), ITEMS)
        assert "rating" not in log.interactions.column_names
        assert "'rating'" in caplog.text and "Left out" in caplog.text


def test_columns_of_our_names_need_no_mapping():
    log = load_table(LOG, ITEMS)
    assert log.items.column_names == ["item_id", "title", "description"]
    assert log.items["description"][:] == ["", ""]
    assert log.interactions["timestamp"][:] == [1.0, 2.0]


def test_one_table_with_everything():
    table = Dataset.from_dict(
        {"user_id": ["a", "a", "b"], "item_id": [1, 2, 1], "title": ["", "Saw", "Nut"], "timestamp": [1, 2, 3]}
    )
    log = load_table(table, table)
    assert dict(zip(log.items["item_id"][:], log.items["title"][:])) == {"1": "Nut", "2": "Saw"}
    assert len(log.interactions) == 3


def test_integers_dictionaries_and_lists():
    items = Dataset(
        pa.table(
            {
                "item_id": pa.array([1, 2], pa.uint8()),
                "title": pa.array(["Nut", "Saw"]).dictionary_encode(),
                "description": [["Steel", None, "M3"], None],
            }
        )
    )
    log = load_table(LOG, items)
    assert log.items.to_list() == [
        {"item_id": "1", "title": "Nut", "description": "Steel M3"},
        {"item_id": "2", "title": "Saw", "description": ""},
    ]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([0, 86400], pa.timestamp("s")),
        pa.array([0, 86400_000_000_001], pa.timestamp("ns")),
        pa.array([0, 86400_000], pa.timestamp("ms", "Asia/Tokyo")),
        pa.array([0, 1], pa.date32()),
        ["1970-01-01T00:00:00Z", "1970-01-02 01:00+01:00"],
        [0, 86400],
        pa.array([0, 86400], pa.float32()),
    ],
)
def test_times_become_seconds(times):
    table = pa.table({"user_id": ["a", "b"], "item_id": ["1", "2"], "timestamp": times})
    assert load_table(Dataset(table), ITEMS).interactions["timestamp"][:] == [0.0, 86400.0]


def test_images_stay_images():
    items = ITEMS.add_column("photo", ["a.png", "b.png"]).cast_column("photo", Image(decode=False))
    log = load_table(LOG, items, item_columns={"image": "photo"})
    assert isinstance(log.items.features["image"], Image)
    assert log.items[0]["image"]["path"] == "a.png"


def test_classes_are_their_names():
    items = Dataset.from_dict({"item_id": ["1", "2", "3"], "title": [1, 0, -1]})
    items = items.cast_column("title", ClassLabel(names=["Saw", "Nut"]))
    assert load_table(None, items, untitled="keep").items["title"][:] == ["Nut", "Saw", ""]
    ids, events = ClassLabel(names=["1", "2"]), ClassLabel(names=["buy", "look"])
    orders = LOG.select_columns(["user_id", "timestamp"]).add_column("item_id", [0, 1]).add_column("event", [0, 1])
    orders = orders.cast_column("item_id", ids).cast_column("event", events)
    log = load_table(orders, items, {"event": "event"}, filters={"event": "look"})
    assert log.interactions["item_id"][:] == ["2"]
    # Further columns keep their type.
    assert log.interactions.features["event"] == events


def test_a_selection_is_what_it_selects():
    assert load_table(LOG.select([1]), ITEMS.select([1, 0])).interactions["user_id"][:] == ["b"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "dataset"])
def test_missing_columns_are_named(tmp_path, kind):
    table = pa.table({"user": ["a"], "item_id": ["1"], "timestamp": [1]})
    source = Dataset(table) if kind == "dataset" else tmp_path / f"log.{kind}"
    if kind == "csv":
        source.write_text("user,item_id,timestamp\na,1,1\n")
    elif kind == "jsonl":
        source.write_text(json.dumps(table.to_pylist()[0]))
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, source)
    with pytest.raises(
        ValueError,
        match=r"the columns \['user_id'\], but \['user_id'\] are missing from \['user', .*'user_id' by .*columns=",
    ):
        load_table(source, ITEMS)
    with pytest.raises(ValueError, match=r"to have the columns \['Rating'\], .*our column 'rating' by"):
        load_table(source, ITEMS, {"user_id": "user", "rating": "Rating"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"user_id,item_id,timestamp\na,1\n", "log.csv is not a table .*','.* line 2 has 2, the header 3"),
        ("log.csv", b"user_id,item_id,timestamp\na,1,1,1\n", "log.csv is not .*line 2 has 4, the header 3"),
        ("log.csv", b"user_id,item_id,timestamp\n\xff,1,1\n", "log.csv is not a UTF-8 table: line 2 .*`encoding`"),
        ("log.csv", b"user_id;item_id;timestamp\na;1;1\n", r"missing from \['user_id;item_id;timestamp'\]"),
        ("log.csv", b"user_id,item_id,user_id,timestamp\na,1,1,1\n", r"once in .*log.csv, but \['user_id'\] repeat"),
        ("log.csv", b"", "a table in .*log.csv, but it is empty"),
        ("log.csv", b"user_id,item_id,timestamp\n", "it is empty. Pass `interactions=None`"),
        (
            "log.csv",
            b"user_id,item_id,timestamp\na,1,2024-05-30\na,1,May 5\n",
            "column 'timestamp' of .*log.csv .* line 3 has 'May 5'",
        ),
        (
            "log.csv.gz",
            gzip.compress(b"user_id,item_id,timestamp\n" + b"a,1,1\n" * 9999)[:-9],
            "log.csv.gz is not .*end",
        ),
        ("log.jsonl", b'{"user_id": "a", "item_id": 1}\n{"user_id": "a"', "log.jsonl, line 2"),
        ("log.jsonl", b'[{"user_id": "a"}, 3]', "an object in .*log.jsonl, entry 2, but found '3'"),
        ("log.parquet", b"PAR1 no PAR1", "log.parquet is not a whole Parquet file"),
        ("log.xlsx", b"", r"to end in one of \['.csv', .*but found '.xlsx'"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_table(tmp_path / name, ITEMS)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", [1.0, None], "'user_id' of `interactions` to hold strings or integers, but found double.*Int64"),
        ("item_id", [True, False], "'item_id' .* but found bool"),
        ("timestamp", [True, False], "'timestamp' .* to hold numbers, but found bool such as True"),
        ("timestamp", [[1], [2]], "'timestamp' .* to hold numbers, but found list"),
        ("rating", ["5", "4"], "'rating' .* to hold numbers, but found string such as '5'"),
    ],
)
def test_wrong_types_are_named(column, values, message):
    columns = {**LOG.to_dict(), column: values}
    with pytest.raises(TypeError, match=message):
        load_table(Dataset.from_dict(columns), ITEMS, {"rating": "rating"} if column == "rating" else None)


def test_titles_are_texts():
    for values in ([1.5, 2.5], [[1], [2]], [{"a": 1}, {"a": 2}]):
        with pytest.raises(TypeError, match="'title' of `items` to hold strings or lists of strings, but found"):
            load_table(LOG, Dataset.from_dict({"item_id": ["1", "2"], "title": values}))


def test_one_column_is_one_column():
    with pytest.raises(ValueError, match=r"one column of `interactions` for each of \['user_id'\].*Only texts"):
        load_table(LOG, ITEMS, {"user_id": ["user_id", "item_id"]})


def test_what_is_no_table(tmp_path):
    with pytest.raises(
        TypeError, match="`interactions` to be .* but found `DatasetDict`. Of a `DatasetDict` pass one"
    ):
        load_table(DatasetDict({"train": LOG}), ITEMS)
    with pytest.raises(TypeError, match="`items` of `load_table` as `Dataset` or `DataFrame`"):
        load_table(LOG, ITEMS.to_list())
    with pytest.raises(FileNotFoundError, match="nowhere.csv, but there is none"):
        load_table(tmp_path / "nowhere.csv", ITEMS)


def test_data_frames_are_tables():
    log, framed = load_table(LOG, ITEMS), load_table(LOG.to_pandas(), ITEMS.to_pandas())
    assert framed.items[:] == log.items[:] and framed.interactions[:] == log.interactions[:]


def test_a_catalogue_alone(folder):
    log = load_table(None, folder / "shop.csv", item_columns=SHOP_COLUMNS)
    assert log.items["item_id"][:] == ["007", "008"] and log.items[0]["description"] == "Strong Dries fast"
    assert len(log.interactions) == 0 and set(log.interactions.column_names) >= {"user_id", "item_id", "timestamp"}
    assert log.summary.stages[-1][1:] == (2, 0, 0)
    with pytest.raises(ValueError, match="items and interactions to be left"):
        load_table(None, Dataset.from_dict({"item_id": ["1"], "title": [""]}))


def test_rows_stay_where_all_of_several_texts_are_missing():
    items = Dataset.from_dict({"item_id": ["1", "2"], "title": ["Nut", "Saw"], "a": ["x", None], "b": [None, None]})
    log = load_table(LOG, items, item_columns={"description": ["a", "b"]})
    assert log.items["description"][:] == ["x", ""]
