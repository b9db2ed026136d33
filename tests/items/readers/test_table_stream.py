"""Tables as streams: the rows of the ordinary table, one after another, at flat memory."""

import gzip
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset

from tsrec_hf import build_sequence_rows
from tsrec_hf.items import TableFile, load_table
from tsrec_hf.items.readers import column_streams, delimited, dialects, json_lines


ITEMS = Dataset.from_dict(
    {"item_id": ["007", "008", "9", "10"], "title": ["Glue", "Tape", "", "glue"], "description": [""] * 4}
)
COLUMNS = {"user_id": "customer", "item_id": "sku", "timestamp": "day", "note": "note"}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches that users go over."""
    monkeypatch.setattr(column_streams, "BATCH_ROWS", 7)
    for module in (delimited, dialects, json_lines):
        monkeypatch.setattr(module, "BLOCK_BYTES", 300)


@pytest.fixture
def log():
    """Users of several rows each, with repeats, unknown items, missing values and ratings."""
    drawn = np.random.default_rng(0)
    users = np.repeat([f"c{number:02d}" for number in range(12)], 6)
    items = drawn.choice(["007", "008", "9", "10", "404"], size=len(users))
    days = np.sort(drawn.integers(3, size=(12, 6)), axis=1).reshape(-1) + 1
    frame = pd.DataFrame(
        {
            "customer": users,
            "sku": items,
            "day": [f"2024-05-{day:02d}" for day in days],
            "stars": drawn.integers(1, 6, size=len(users)).astype(float),
            "event": drawn.choice(["buy", "look"], size=len(users)),
            "note": [f"n{number}" for number in range(len(users))],
        }
    )
    frame.loc[5, "customer"] = ""
    frame.loc[20, "note"] = "NULL"
    return frame


def as_parts(frame, folder):
    for number, start in enumerate(range(0, len(frame), 25)):
        (folder / f"day={number}").mkdir(parents=True)
        frame[start : start + 25].to_parquet(folder / f"day={number}" / "part.parquet")
    (folder / "_metadata.parquet").write_bytes(b"no data")
    return folder


def as_file(frame, folder, form):
    path = folder / f"log.{form}"
    if form == "parts":
        return as_parts(frame, path)
    if form == "dataset":
        return Dataset.from_pandas(frame, preserve_index=False)
    if form == "frame":
        return frame
    if form == "parquet":
        frame.to_parquet(path, row_group_size=10)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        text = frame.to_csv(index=False, sep="\t" if form.startswith("tsv") else ",")
        path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    return path


FORMS = ["parts", "dataset", "frame", "parquet", "jsonl", "csv", "csv.gz", "tsv"]
OPTIONS = [
    {},
    {"repeats": "first"},
    {"same_title": "merge"},
    {"untitled": "keep"},
    {"filters": {"event": "buy"}},
    {"min_rating": 3.0},
]


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_those_of_the_table(log, tmp_path, form):
    source = as_file(log, tmp_path, form)
    for options in OPTIONS:
        columns = COLUMNS | ({"rating": "stars"} if "min_rating" in options else {})
        table = load_table(source, ITEMS, columns, **options).interactions
        stream = load_table(source, ITEMS, columns, streaming=True, **options)
        assert isinstance(stream, IterableDataset)
        assert list(stream) == table.to_list()
        assert stream.features == table.features
    # A second time, and in another process.
    assert list(stream) == table.to_list() == list(pickle.loads(pickle.dumps(stream)))


@pytest.mark.parametrize("form", ["parts", "csv", "jsonl", "dataset"])
def test_rows_in_order_have_no_times(log, tmp_path, form):
    source = as_file(log, tmp_path, form)
    columns = COLUMNS | {"timestamp": None}
    table = load_table(source, ITEMS, columns, filters={"event": "look"}).interactions
    stream = load_table(source, ITEMS, columns, filters={"event": "look"}, streaming=True)
    assert list(stream) == table.to_list()


def test_a_field_that_the_first_line_lacks_is_a_column(log, tmp_path):
    source = as_file(log, tmp_path, "jsonl")
    source.write_text('{"customer": "c00", "sku": "007", "day": "2024-05-01"}\n' + source.read_text())
    table = load_table(source, ITEMS, COLUMNS).interactions
    stream = load_table(source, ITEMS, COLUMNS, streaming=True)
    assert list(stream) == table.to_list() and "note" in table.column_names


def test_dialects(tmp_path):
    rows = ["ann::007::30/05/2024", "ann::008::31/05/2024", "José::007::30/05/2024"] * 20
    (tmp_path / "log.dat").write_bytes("\n".join(rows).encode("latin-1"))
    options = {"encoding": "latin-1", "delimiter": "::", "timestamp_format": "%d/%m/%Y"}
    names = ["user_id", "item_id", "timestamp"]
    table = load_table(tmp_path / "log.dat", ITEMS, interaction_names=names, **options).interactions
    stream = load_table(tmp_path / "log.dat", ITEMS, interaction_names=names, streaming=True, **options)
    # Users do not stand together, so their repeats are only found next to each other.
    assert len(list(stream)) == 60 and {tuple(row.values()) for row in stream} == {
        tuple(row.values()) for row in table.to_list()
    }


@pytest.mark.parametrize("quotes", [None, True])
def test_quotes_that_balance_are_taken_off(tmp_path, quotes):
    rows = [f'"c{number:02d}"\t"007"\t{number}' for number in range(30)]
    (tmp_path / "log.tsv").write_text("\n".join(["user_id\titem_id\ttimestamp", *rows]))
    table = load_table(tmp_path / "log.tsv", ITEMS, quotes=quotes).interactions
    stream = load_table(tmp_path / "log.tsv", ITEMS, quotes=quotes, streaming=True)
    assert list(stream) == table.to_list() and len(table) == 30


def test_training_rows_are_those_of_the_table(log, tmp_path, tokenizer, sid_index):
    items = Dataset.from_dict({"item_id": sid_index.item_ids, "title": [f"t{n}" for n in range(len(sid_index))]})
    log["sku"] = np.resize(sid_index.item_ids, len(log))
    source = as_file(log, tmp_path, "parts")
    table = load_table(source, items, COLUMNS).interactions
    stream = load_table(source, items, COLUMNS, streaming=True)
    assert build_sequence_rows(stream, tokenizer)[:] == build_sequence_rows(table, tokenizer)[:]


def test_parts_of_different_integers_have_one_type(tmp_path):
    for number, kind in enumerate((pa.int32(), pa.int64())):
        rows = {"user_id": [f"u{number}"], "item_id": ["007"], "timestamp": pa.array([number], kind)}
        pq.write_table(pa.table(rows | {"count": pa.array([number], kind)}), tmp_path / f"{number}.parquet")
    options = {"interaction_columns": {"count": "count"}}
    table = load_table(tmp_path, ITEMS, **options).interactions
    stream = load_table(tmp_path, ITEMS, streaming=True, **options)
    assert list(stream) == table.to_list() and stream.features == table.features


def test_only_the_first_rows_are_read_at_first(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "a,007,1\nb,007,1\n" * 50 + "c,007,May\n")
    stream = load_table(tmp_path / "log.csv", ITEMS, streaming=True)
    assert next(iter(stream)) == {"user_id": "a", "item_id": "007", "timestamp": 1.0}
    with pytest.raises(ValueError, match="log.csv .* line 102 has 'May'"):
        list(stream)


def test_a_row_that_a_quote_swallowed_is_an_error(tmp_path):
    rows = [f"u{number},007,{number}" for number in range(40)]
    rows[30:32] = ['u30,007,"30', 'u31,007,31"']
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    with pytest.raises(ValueError, match="log.csv"):
        list(load_table(tmp_path / "log.csv", ITEMS, streaming=True))


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("log.json", '[{"user_id": "a", "item_id": "007"}]', {}, "one JSON document in .*log.json. Write an object a"),
        ("log.csv", "user_id,item_id,timestamp\n", {}, "it is empty"),
        ("log.csv", "user,item_id,timestamp\na,007,1\n", {}, "'user_id' by `interaction_columns="),
        (
            "log.csv",
            "user_id,item_id,timestamp\na,404,1\n",
            {},
            "interactions to be left of .*log.csv, but found none",
        ),
        ("log.jsonl", '{"user_id": "a", "item_id": "007"}\n', {}, r"\['timestamp'\] are missing"),
        ("log.csv", "who,what\na,007\n", {}, r"\['user_id'\] are missing"),
        ("log.csv", "user_id,item_id,timestamp\na,007,1\n", {"min_rating": 3.0}, "our column 'rating' by"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(tmp_path, name, content, options, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_table(tmp_path / name, ITEMS, streaming=True, **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_frame_of_mixed_types_is_named(log, streaming):
    mixed = log.assign(sku=[1, *log["sku"][1:]])
    with pytest.raises(TypeError, match="columns of one type each in the data frame `interactions`"):
        load_table(mixed, ITEMS, COLUMNS, streaming=streaming)


def test_items_alone_are_no_stream():
    with pytest.raises(ValueError, match="Only interactions are streamed"):
        load_table(None, ITEMS, streaming=True)


def test_damaged_parts_are_named(log, tmp_path):
    folder = as_file(log, tmp_path, "parts")
    (folder / "day=9").mkdir()
    (folder / "day=9" / "part.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(ValueError, match="day=9/part.parquet is not a whole Parquet file"):
        load_table(TableFile(folder), ITEMS, COLUMNS, streaming=True)
    log.drop(columns="note").to_parquet(folder / "day=9" / "part.parquet")
    with pytest.raises(ValueError, match="in every part"):
        load_table(folder, ITEMS, COLUMNS, streaming=True)


def test_parts_of_texts_and_numbers_are_refused(log, tmp_path):
    folder = as_file(log, tmp_path, "parts")
    (folder / "day=9").mkdir()
    time = COLUMNS["timestamp"]
    log.assign(**{time: [["a"]] * len(log)}).to_parquet(folder / "day=9" / "part.parquet")
    with pytest.raises(ValueError, match="are of different types.*Write them again"):
        load_table(TableFile(folder), ITEMS, COLUMNS, streaming=True)


def test_a_damaged_row_group_is_named(log, tmp_path):
    path = as_file(log, tmp_path, "parquet")
    whole = path.read_bytes()
    middle = len(whole) // 3
    path.write_bytes(whole[:16] + b"\xff" * (middle - 16) + whole[middle:])
    with pytest.raises(ValueError, match="is not a whole Parquet file"):
        list(load_table(path, ITEMS, COLUMNS, streaming=True))


def test_numbers_need_no_format_of_dates(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"user_id": "a", "item_id": "007", "timestamp": 1700000000}\n')
    [row] = load_table(path, ITEMS, timestamp_format="%d.%m.%Y", streaming=True)
    assert row["timestamp"] == 1700000000
