import gzip
import json

import pytest

from tsrec_hf.items import load_amazon


REVIEWS_2018 = [
    {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 100, "reviewText": "Good", "vote": "2"},
    {"reviewerID": "A1", "asin": "B2", "overall": 2.0, "unixReviewTime": 90, "style": {"Size:": "1"}},
    {"reviewerID": "A2", "asin": "B1", "overall": 4.0, "unixReviewTime": 95, "image": ["x.jpg"]},
]
METADATA_2018 = [
    {"asin": "B1", "title": "Nuts &amp; bolts", "description": ["<b>Steel</b>", "M3"], "brand": "Acme", "price": "$1"},
    {
        "asin": "B2",
        "title": "Saw",
        "description": "Sharp",
        "category": ["Tools", "Hand &amp; Power"],
        "feature": ["Red"],
    },
]
REVIEWS_2023 = [
    {"user_id": "A1", "asin": "V1", "parent_asin": "B1", "rating": 5.0, "timestamp": 1588687728923, "title": "Wow"},
    {"user_id": "A1", "asin": "V2", "parent_asin": "B1", "rating": 4.0, "timestamp": 1588687728922, "title": "Again"},
]
METADATA_2023 = [
    {
        "parent_asin": "B1",
        "title": "Saw",
        "description": [],
        "features": ["Red", "Sharp"],
        "store": None,
        "categories": ["Tools"],
        "details": {"Colour": "Red"},
        "price": None,
    }
]


def write(path, rows):
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def load(tmp_path):
    def load(reviews, metadata, suffix=".jsonl", **kwargs):
        return load_amazon(
            write(tmp_path / f"R{suffix}", reviews), write(tmp_path / f"meta{suffix}", metadata), **kwargs
        )

    return load


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_2018(load, suffix):
    log = load(REVIEWS_2018, METADATA_2018, suffix)
    assert log.items.to_list() == [
        {
            "item_id": "B1",
            "title": "Nuts & bolts",
            "description": "Steel M3",
            "features": "",
            "brand": "Acme",
            "categories": "",
        },
        {
            "item_id": "B2",
            "title": "Saw",
            "description": "Sharp",
            "features": "Red",
            "brand": "",
            "categories": "Tools, Hand & Power",
        },
    ]
    assert log.interactions.to_dict() == {
        "user_id": ["A1", "A1", "A2"],
        "item_id": ["B1", "B2", "B1"],
        "timestamp": [100.0, 90.0, 95.0],
        "rating": [5.0, 2.0, 4.0],
    }


def test_2023(load):
    log = load(REVIEWS_2023, METADATA_2023, ".jsonl.gz")
    assert log.items.to_list() == [
        {
            "item_id": "B1",
            "title": "Saw",
            "description": "",
            "features": "Red Sharp",
            "brand": "",
            "categories": "Tools",
        }
    ]
    # Of two variants of one product the first review in time stays.
    assert log.interactions.to_list() == [
        {"user_id": "A1", "item_id": "B1", "timestamp": 1588687728.922, "rating": 4.0}
    ]
    assert len(load(REVIEWS_2023, METADATA_2023, repeats="keep").interactions) == 2


def test_min_rating(load):
    log = load(REVIEWS_2018, METADATA_2018, min_rating=4)
    assert log.interactions["rating"][:] == [5.0, 4.0]
    assert "interactions rated below 4 dropped | 2 | 2 | 2 (-1) |" in str(log.summary)


def test_titles_that_are_scripts_are_no_titles(load):
    junk = {"asin": "B3", "title": "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"}
    assert load(REVIEWS_2018, [*METADATA_2018, junk]).items["item_id"][:] == ["B1", "B2"]
    assert load(REVIEWS_2018, [*METADATA_2018, junk], untitled="keep").items["title"][:][2] == ""


def test_metadata_that_repeats_and_lacks(load):
    metadata = [{"asin": "B1"}, *METADATA_2018, METADATA_2018[0] | {"title": "Other"}]
    log = load(REVIEWS_2018, metadata)
    assert dict(zip(log.items["item_id"][:], log.items["title"][:])) == {"B1": "Nuts & bolts", "B2": "Saw"}
    # Reviews of products without metadata go, and are counted.
    log = load(REVIEWS_2018, METADATA_2018[:1])
    assert len(log.interactions) == 2
    assert "interactions with unknown items dropped | 1 | 2 | 2 (-1) |" in str(log.summary)


@pytest.mark.parametrize(
    ("reviews", "metadata", "message"),
    [
        (REVIEWS_2018, METADATA_2023, "of one version, but .*R.jsonl is of 2018 and .*meta.jsonl of 2023"),
        (REVIEWS_2023, METADATA_2018, "R.jsonl is of 2023 and .*meta.jsonl of 2018"),
        # Swapped, the titles of reviews would become those of items.
        (METADATA_2023, REVIEWS_2023, r"the reviews of Amazon Reviews in .*R.jsonl, .*'user_id'.*\(2023\) or .*2018"),
        (REVIEWS_2023, REVIEWS_2023, "the metadata of Amazon Reviews in .*meta.jsonl"),
        (METADATA_2018, REVIEWS_2018, "the reviews of Amazon Reviews in .*R.jsonl"),
        (REVIEWS_2018, REVIEWS_2018, "the metadata of Amazon Reviews in .*meta.jsonl"),
        ([{"user": "a"}], METADATA_2018, r"its first line has \['user'\].*load_table"),
        ([*REVIEWS_2018, {"unixReviewTime": "then"}], METADATA_2018, "'unixReviewTime' of .*R.jsonl, line 4"),
        (REVIEWS_2018, [*METADATA_2018, {"title": {"a": 1}}], "'title' of .*meta.jsonl, line 3"),
        (REVIEWS_2018, [{"asin": "B9", "title": "Other"}], "Look where they went(.|\n)*unknown items .* 0 "),
    ],
)
def test_wrong_files_are_named(load, reviews, metadata, message):
    with pytest.raises(ValueError, match=message):
        load(reviews, metadata)


def test_products_alone(tmp_path):
    for metadata in (METADATA_2018, METADATA_2023):
        path = write(tmp_path / "meta.jsonl", metadata)
        log = load_amazon(None, path)
        assert len(log.items) == len(metadata) and len(log.interactions) == 0


def test_2014_as_published_and_as_json(tmp_path):
    paths = [["Beauty", "Hair", "Combs"], ["Beauty", "Gifts"]]
    metadata = [
        {"asin": "B1", "title": "Nuts & 'bolts'", "price": 1.5, "categories": paths, "salesRank": {"Beauty": 7}},
        {"asin": "B2", "description": "Sharp\n", "brand": "Acme", "categories": [["Beauty"]], "title": "Saw"},
    ]
    reviews = write(tmp_path / "R.json", REVIEWS_2018)
    read = []
    for spell in (repr, json.dumps):
        path = tmp_path / "meta.json.gz"
        path.write_bytes(gzip.compress("".join(spell(product) + "\n" for product in metadata).encode()))
        read.append(load_amazon(reviews, path).items.to_list())
    assert read[0] == read[1]
    assert [item["categories"] for item in read[0]] == ["Beauty, Hair, Combs, Gifts", "Beauty"]
    assert read[0][0]["title"] == "Nuts & 'bolts'" and read[0][1]["brand"] == "Acme"


def test_python_literals_are_not_executed(tmp_path):
    reviews = write(tmp_path / "R.json", REVIEWS_2018)
    path = tmp_path / "meta.json"
    path.write_text("{'asin': 'B1', 'title': 'Nut'}\n{'asin': open('x', 'w').name, 'title': 'Saw'}\n")
    with pytest.raises(ValueError, match="meta.json, line 2, but found"):
        load_amazon(reviews, path)
    assert not (tmp_path / "x").exists()
