"""What a page shows of a data set: popular histories, what was taken next, and fields of the items."""

import json

import pytest
from datasets import Dataset

from tsrec_hf.items import RecommendationDataset, Showcase


def make_dataset(rows, **columns):
    items = Dataset.from_dict({"item_id": list("abcdef"), "title": list("ABCDEF"), **columns})
    train = [("u", ["f"], target) for target in "aaaabbbccd"]
    tables = [
        Dataset.from_dict(dict(zip(("user_id", "history", "target"), map(list, zip(*part))))) for part in (train, rows)
    ]
    return RecommendationDataset(items, tables[0], tables[1], tables[1])


def test_popular_histories_are_drawn() -> None:
    rows = [
        ("1", ["d", "e", "f"], "a"),
        ("2", ["f", "a", "b", "d"], "c"),
        ("3", ["a", "b", "d"], "c"),  # another user took the same
        ("4", ["a", "b"], "c"),  # too short
        ("5", ["a", "b", "c"], "a"),  # nothing new
        ("3", ["a", "b", "c"], "d"),
        ("3", ["d", "e", "f"], "b"),  # the user's second
        ("6", ["b", "c", "e"], "d"),
    ]
    found = Showcase.draw(make_dataset(rows), length=3)
    assert [(user.history, user.target) for user in found.users] == [
        (["a", "b", "d"], "c"),
        (["a", "b", "c"], "d"),
        (["d", "e", "f"], "a"),
    ]
    assert Showcase.draw(make_dataset(rows), length=3, num_users=1).users == found.users[:1]


def test_fields_are_those_that_the_table_has() -> None:
    years = ["1994", None, "unknown", "Oct 3, 2001", "", "30"]
    genres = [["Comedy", None, "Drama"], [], [], [], [], ["x" * 100]]
    found = Showcase.draw(make_dataset([("1", ["a", "b", "c"], "d")], release_year=years, genres=genres, plot=years))
    assert found.fields == {
        "a": {"year": "1994", "genre": "Comedy, Drama"},
        "d": {"year": "2001"},
        "f": {"genre": "x" * 80},
    }


def test_it_is_read_as_it_was_written(dataset, tmp_path) -> None:
    showcase = Showcase.draw(dataset)
    assert Showcase.load(showcase.save(tmp_path)) == showcase
    assert showcase.users and showcase.fields == {}
    assert "bob" not in (tmp_path / "showcase.json").read_text()


@pytest.mark.parametrize(
    "document",
    [[], {"items": {}}, {"items": {"7": "1994"}, "users": []}, {"items": {"7": {"year": 1994}}, "users": []}]
    + [
        {"items": {}, "users": [user]}
        for user in ("7", {"history": 7, "target": "8"}, {"history": [7], "target": "8"})
    ],
)
def test_another_form_is_an_error(document, tmp_path) -> None:
    path = tmp_path / "showcase.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r'Expected "items".*Showcase.draw\(dataset\)'):
        Showcase.load(path)
