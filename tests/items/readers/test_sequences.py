import gzip

import pytest
from datasets import Dataset

from tsrec_hf import leave_one_out_split, load_sequences


TITLES = Dataset.from_dict({"item_id": [1, 2, 3], "title": ["Nut", "Saw", "Glue"]})
EXPECTED = [("7", "2", 0.0), ("7", "1", 1.0), ("7", "2", 2.0), ("9", "3", 0.0), ("9", "1", 1.0)]


def load(tmp_path, text, items=TITLES, **kwargs):
    (tmp_path / "toys.txt").write_text(text)
    return load_sequences(tmp_path / "toys.txt", items, **kwargs)


def rows_of(log):
    return list(zip(*(log.interactions[name][:] for name in ("user_id", "item_id", "timestamp"))))


def test_pairs_of_user_and_item(tmp_path):
    # Users may alternate; each keeps the order of the file.
    log = load(tmp_path, "7 2\n9 3\n7 1\n\n7 2\n9 1\n")
    assert sorted(rows_of(log), key=lambda row: (row[0], row[2])) == EXPECTED
    assert [row["target"] for row in log.split(leave_one_out_split).test] == ["2"]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("7 2 1 2\n9 3 1\n", {}),
        ("7\t2 1 2\r\n9\t3 1", {}),
        ("7,2, 1,2\n9,3,1\n", {"delimiter": ","}),
        ("7::2::1::2\n9::3::1\n", {"delimiter": "::"}),
        ("7 1 0 1\n9 2 0\n", {"item_offset": 1}),
    ],
)
def test_a_user_and_all_items_in_a_line(tmp_path, text, options):
    assert rows_of(load(tmp_path, text, **options)) == EXPECTED


def test_lines_without_a_user(tmp_path):
    assert [row[:2] for row in rows_of(load(tmp_path, "2 1 2\n2 3\n", with_users=False))] == [
        ("1", "2"),
        ("1", "1"),
        ("1", "2"),
        ("2", "2"),
        ("2", "3"),
    ]


def test_titles_from_a_table_of_other_names(tmp_path):
    (tmp_path / "titles.tsv").write_text("nr\tname\n1\tNut\n2\t\n3\tGlue\n")
    columns = {"item_id": "nr", "title": "name"}
    log = load(tmp_path, "7 2 1 2\n9 3 1\n", tmp_path / "titles.tsv", item_columns=columns)
    # Published sequences are evaluated with all items.
    assert rows_of(log) == EXPECTED and log.items["title"][:] == ["Nut", "", "Glue"]
    dropped = load(tmp_path, "7 2 1 2\n9 3 1\n", tmp_path / "titles.tsv", item_columns=columns, untitled="drop")
    assert len(dropped.interactions) == 3


def test_ids_are_texts(tmp_path):
    items = Dataset.from_dict({"item_id": ["B001", "B002"], "title": ["Nut", "Saw"]})
    assert rows_of(load(tmp_path, "ann B002 B001\n", items)) == [("ann", "B002", 0.0), ("ann", "B001", 1.0)]


def test_a_gzipped_file(tmp_path):
    (tmp_path / "toys.txt.gz").write_bytes(gzip.compress(b"7 2 1 2\n9 3 1\n"))
    assert rows_of(load_sequences(tmp_path / "toys.txt.gz", TITLES)) == EXPECTED
    (tmp_path / "toys.txt.gz").write_bytes(gzip.compress(b"7 2\n" * 9999)[:-9])
    with pytest.raises(ValueError, match="toys.txt.gz is not whole"):
        load_sequences(tmp_path / "toys.txt.gz", TITLES)


def test_ids_that_count_from_another_number_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has 0 to 2 and the second 1 to 3: .*would be that of a neighbour.*=1`"):
        load(tmp_path, "7 1 0 1\n9 2 0\n")
    with pytest.raises(ValueError, match=r"has 2 to 4 .*`item_offset=-1` .`--item_offset -1`"):
        load(tmp_path, "7 2 4 3\n")
    # Items that nobody took show nothing.
    assert len(load(tmp_path, "7 2 3 2\n").interactions) == 3


def test_interactions_that_go_with_unknown_items_are_told(tmp_path, caplog):
    assert len(load(tmp_path, "7 2 9 8 9 1 3\n9 3 1\n").interactions) == 5
    [told] = caplog.messages
    assert told.startswith("3 of 8 interactions of") and "(37.5%) are left out" in told
    assert told.endswith("because their items are not in `items`, such as ['9', '8'].")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("7 2 1\n9\n", {}, "a user and at least one item in .*toys.txt, line 2, but found '9'.*`with_users=False`"),
        ("7,2,1\n", {}, "line 1, but found '7,2,1'.*pass it as `delimiter`"),
        ("7,2,,1\n", {"delimiter": ","}, "line 1, but found '7,2,,1'"),
        ("7 2 1\n9 3\n7 2\n", {}, "each user once in .*line 1 has several items, but '7' begins lines 1 and 3"),
        ("7 2 1 4.5\n7 2 2 3.0\n", {}, "further columns, read the file with `load_table`"),
        ("\n\n", {}, "it is empty"),
        ("7 a b\n", {"item_offset": 1}, "numbers as item ids .*`item_offset=1`"),
    ],
)
def test_other_lines_say_what_was_expected(tmp_path, text, options, words):
    with pytest.raises(ValueError, match=words):
        load(tmp_path, text, **options)
