import pytest
from datasets import Dataset, Value

from tsrec_hf.items import InteractionLog, load_recbole, tidy


def make_log(titles, interactions, ids=None, **columns):
    """Items "0", "1", ... of these titles; interactions as (user, item, time)."""
    ids = ids or [str(number) for number in range(len(titles))]
    items = Dataset.from_dict({"item_id": ids, "title": titles, "description": [""] * len(titles)})
    users, taken, times = zip(*interactions)
    log = {"user_id": users, "item_id": taken, "timestamp": times}
    return InteractionLog(items, Dataset.from_dict({**{k: list(v) for k, v in log.items()}, **columns}))


def rows_of(log):
    return list(zip(*(log.interactions[name][:] for name in ("user_id", "item_id", "timestamp"))))


def test_items_without_a_title_go_with_their_interactions():
    log = make_log(["Nut", " <br>&nbsp;", None], [("a", "0", 1.0), ("a", "1", 2.0), ("b", "2", 3.0)])
    tidied = tidy(log)
    assert tidied.items["item_id"][:] == ["0"]
    assert rows_of(tidied) == [("a", "0", 1.0)]
    kept = tidy(log, untitled="keep")
    assert kept.items["title"][:] == ["Nut", "", ""]
    assert len(kept.interactions) == 3


def test_of_repeated_items_the_first_with_a_title_stays():
    log = make_log(["", "B", "A", "C", ""], [("a", "x", 1.0)], ids=["x", "y", "x", "x", "z"])
    assert tidy(log, untitled="keep").items.select_columns(["item_id", "title"]).to_list() == [
        {"item_id": "y", "title": "B"},
        {"item_id": "x", "title": "A"},
        {"item_id": "z", "title": ""},
    ]


def test_items_without_an_id_go():
    log = make_log(["A", "B", "C"], [("a", "x", 1.0)], ids=["x", "", None])
    assert tidy(log).items["item_id"][:] == ["x"]


def test_merging_titles():
    interactions = [("a", "2", 1.0), ("a", "0", 2.0), ("a", "0", 1.0), ("b", "3", 1.0), ("b", "nowhere", 5.0)]
    log = make_log(["NUT &amp; bolt", "Saw", "nut & Bolt", "", ""], interactions)
    merged = tidy(log, same_title="merge", untitled="keep")
    # Empty titles do not make one item of two.
    assert merged.items["item_id"][:] == ["0", "1", "3", "4"]
    # What is now one item at one time counts once.
    assert rows_of(merged) == [("a", "0", 1.0), ("a", "0", 2.0), ("b", "3", 1.0)]
    kept = tidy(log)
    assert kept.items["item_id"][:] == ["0", "1", "2"]
    assert "1 items with the title of another kept" in str(kept.summary)


@pytest.mark.parametrize("time", [None, float("nan"), float("inf")])
def test_interactions_that_lack_something_go(time):
    log = make_log(["Nut"], [("a", "0", 1.0), (None, "0", 1.0), ("", "0", 1.0), ("a", None, 1.0), ("b", "0", time)])
    assert rows_of(tidy(log)) == [("a", "0", 1.0)]
    [stage] = [stage for stage in tidy(log).summary.stages if "without user" in stage.name]
    assert stage.interactions == 1


def test_repeats():
    interactions = [("a", "0", 5.0), ("a", "0", 3.0), ("a", "0", 5.0), ("a", "1", 5.0), ("b", "0", 5.0)]
    log = make_log(["Nut", "Saw"], interactions)
    assert rows_of(tidy(log)) == [interactions[0], *interactions[1:2], *interactions[3:]]
    assert rows_of(tidy(log, repeats="first")) == [("a", "0", 3.0), ("a", "1", 5.0), ("b", "0", 5.0)]


def test_of_equal_rows_the_first_stays():
    log = make_log(["Nut"], [("a", "0", 1.0), ("a", "0", 1.0)], rating=[4.0, 2.0])
    assert tidy(log).interactions["rating"][:] == [4.0]


def test_min_rating_drops_what_has_none():
    log = make_log(["Nut"], [("a", "0", 1.0), ("b", "0", 1.0), ("c", "0", 1.0)], rating=[4.0, None, 3.0])
    assert tidy(log, min_rating=3.5).interactions["user_id"][:] == ["a"]
    with pytest.raises(ValueError, match=r"\['rating'\] are missing .* `min_rating=3` needs it"):
        tidy(make_log(["Nut"], [("a", "0", 1.0)]), min_rating=3)


def test_dates_and_large_strings_are_taken():
    log = make_log(["Nut", "Saw"], [("a", "0", 2), ("a", "0", 1), ("a", "1", 1)])
    interactions = log.interactions.cast_column("timestamp", Value("timestamp[s]"))
    interactions = interactions.cast_column("item_id", Value("large_string"))
    tidied = tidy(InteractionLog(log.items, interactions), repeats="first")
    assert tidied.interactions["item_id"][:] == ["0", "1"]
    assert tidied.interactions["timestamp"][0].second == 1


def test_further_columns_stay():
    log = make_log(["<b>Nut</b>"], [("a", "0", 1.0)], device=["<phone>"])
    items = log.items.add_column("image", ["<a>.jpg"])
    tidied = tidy(InteractionLog(items, log.interactions))
    assert tidied.items[0]["image"] == "<a>.jpg"
    assert tidied.interactions[0]["device"] == "<phone>"


def test_known_text_columns_become_plain():
    log = make_log(["Nut"], [("a", "0", 1.0)])
    items = log.items.add_column("brand", ["Nuts &amp; Co"]).add_column("categories", [["<b>a</b>"]])
    tidied = tidy(InteractionLog(items, log.interactions))
    assert tidied.items[0]["brand"] == "Nuts & Co"
    # A list is no text.
    assert tidied.items[0]["categories"] == ["<b>a</b>"]


def test_nothing_left_shows_where_it_went():
    with pytest.raises(
        ValueError, match=r"both tables mean the same item ids(.|\n)*unknown items dropped .* 0 \(-1\) \|"
    ):
        tidy(make_log(["Nut"], [("a", "B0", 1.0)]))


@pytest.mark.parametrize("setting", ["untitled", "same_title", "repeats"])
def test_unknown_settings(setting):
    with pytest.raises(ValueError, match=f"`{setting}` to be one of .* but found 'maybe'"):
        tidy(make_log(["Nut"], [("a", "0", 1.0)]), **{setting: "maybe"})


def test_a_recbole_log_can_be_tidied(tmp_path):
    (tmp_path / "toy.item").write_text("item_id:token\ttitle:token_seq\n1\tNuts &amp; bolts\n2\t\n")
    (tmp_path / "toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t1\t5\nu\t2\t6\n")
    log = tidy(load_recbole(tmp_path / "toy"))
    assert log.items["title"][:] == ["Nuts & bolts"]
    assert rows_of(log) == [("u", "1", 5.0)]


def test_one_rule_for_missing_values_in_all_columns():
    titles, ids = ["Nut", "nan", "NA", "Saw"], ["0", "1", "2", "NULL"]
    rows = [("NULL", "0", 1.0), ("nan", "0", 1.0), ("a", "None", 1.0), ("\\N", "0", 2.0), ("NA", "2", 3.0)]
    rows += [("  ", "0", 4.0), ("a", " \t", 4.0), (" nan ", "0", 4.0)]
    log = make_log(titles, rows, ids=ids)
    items = log.items.add_column("brand", ["NULL", "<NA>", "x", "y"]).add_column("photo", ["nan", "b.png", "", None])
    tidied = tidy(InteractionLog(items, log.interactions))
    # What Namibia and North America abbreviate is a value.
    assert tidied.items.select_columns(["item_id", "title", "brand", "photo"]).to_list() == [
        {"item_id": "0", "title": "Nut", "brand": "", "photo": ""},
        {"item_id": "2", "title": "NA", "brand": "x", "photo": ""},
    ]
    assert rows_of(tidied) == [("NA", "2", 3.0)]
    told = str(tidied.summary)
    assert "| 12 values such as NULL, nan or None taken as missing | 4 |" in told
    assert "| interactions without user, item or time dropped | 2 | 1 (-2) | 1 (-7) |" in told
