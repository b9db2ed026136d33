"""The options of scripts, as `TrlParser` reads them, open every form of raw data."""

import json
import logging

import pytest
from trl import TrlParser

from tsrec_hf.items import InteractionLog
from tsrec_hf.recipes.raw_data import FORMATS, RawDataArguments


CSV = {"items.csv": "item_id,title\n1,Nut\n2,Saw\n3,Glue\n"}
LOG = {"log.csv": "user_id,item_id,timestamp\na,1,50\na,2,60\nb,3,65\nb,1,70\n"}


@pytest.fixture
def read(tmp_path):
    """Writes files, parses the options of a command line and reads the log."""

    def read(files: dict, line: str) -> InteractionLog:
        return parse(files, line).read()

    def parse(files: dict, line: str) -> RawDataArguments:
        for name, text in files.items():
            content = text if isinstance(text, (str, bytes)) else json.dumps(text)
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        words = [word.replace("@", f"{tmp_path}/") for word in line.split()]
        [args] = TrlParser(RawDataArguments).parse_args_and_config(words)
        return args

    read.parse = parse
    return read


def rows_of(log):
    return list(zip(*(log.interactions[name][:] for name in ("user_id", "item_id", "timestamp"))))


# Files, options, and the first interaction; the first item is always a nut of id 1.
FORMS = {
    "tables": (CSV | LOG, "--items_file @items.csv --interactions_file @log.csv", ("a", "1", 50.0)),
    "other names and dialects": (
        {"i.txt": "nr|name|a|b\n1|Nut|x|y\n".encode("latin-1"), "l.txt": "who|nr|when|what\nz|1|5|view\ny|1|6|buy\n"},
        "--items_file @i.txt --interactions_file @l.txt --item_columns item_id=nr title=name description=a,b "
        "--interaction_columns user_id=who item_id=nr timestamp=when --delimiter | --encoding latin-1 "
        "--filters what=buy",
        ("y", "1", 6.0),
    ),
    "without headers": (
        {"i.dat": "1::Nüt\n".encode("gbk", "replace"), "l.dat": "a::1::7\n"},
        "--items_file @i.dat --interactions_file @l.dat --delimiter :: --encoding gbk --header false --quotes false "
        "--item_names item_id title --interaction_names user_id item_id timestamp",
        ("a", "1", 7.0),
    ),
    "a tab as a shell passes it": (
        {"i.txt": 'item_id\ttitle\n1\t"Nut, the\n', "l.txt": "user_id\titem_id\ttimestamp\na\t1\t7\n"},
        r"--items_file @i.txt --interactions_file @l.txt --delimiter \t",
        ("a", "1", 7.0),
    ),
    "rows in order": (
        CSV | {"log.csv": "user_id,item_id\na,2\na,1\n"},
        "--items_file @items.csv --interactions_file @log.csv --interaction_columns timestamp=none",
        ("a", "2", 0.0),
    ),
    "recbole": (
        {
            "toy.item": "item_id:token\tname:token\n1\tNut\n",
            "toy.inter": "user_id:token\titem_id:token\twhen:float\na\t1\t7\n",
        },
        "--format recbole --items_file @toy --item_columns title=name --interaction_columns timestamp=when",
        ("a", "1", 7.0),
    ),
    "lcrec": (
        {"T.inter.json": {"a": [1, 2]}, "T.item.json": {"1": {"title": "Nut"}, "2": {"title": ""}}},
        "--format lcrec --items_file @",
        ("a", "1", 0.0),
    ),
    "lcrec with titles elsewhere": (
        CSV | {"T.inter.json": {"a": [1, 2]}},
        "--format lcrec --interactions_file @ --items_file @items.csv",
        ("a", "1", 0.0),
    ),
    "sequences": (
        CSV | {"s.txt": "a,0,1,1\n"},
        "--format sequences --interactions_file @s.txt --items_file @items.csv --delimiter , --item_offset 1",
        ("a", "1", 0.0),
    ),
    "amazon2014": (
        {
            "meta.json": "{'asin': '1', 'title': 'Nut', 'categories': [['A']]}\n",
            "r.json": {"reviewerID": "a", "asin": "1", "unixReviewTime": 7, "overall": 5.0},
        },
        "--format amazon2014 --items_file @meta.json --interactions_file @r.json --min_rating 3",
        ("a", "1", 7.0),
    ),
    "movielens": (
        {"ratings.dat": "a::1::5::7\n", "movies.dat": "1::Nut::Drama\n"},
        "--format movielens --items_file @ --min_rating 3",
        ("a", "1", 7.0),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_by_options(read, form):
    files, line, first = FORMS[form]
    log = read(files, line)
    assert log.items[0]["item_id"] == "1" and log.items[0]["title"].strip('"')[0] == "N"
    assert rows_of(log)[0] == first


def test_all_items_of_published_sequences_are_kept(read):
    files, line, _ = FORMS["lcrec"]
    assert len(read(files, line).items) == 2
    assert len(read(files, f"{line} --untitled drop").items) == 1


def test_the_split_follows_the_log(read, caplog):
    caplog.set_level(logging.INFO)
    files = CSV | {"T.inter.json": {"a": [1, 2, 3], "b": [3, 2, 1, 2]}} | LOG
    args = read.parse(files, "--format lcrec --interactions_file @ --items_file @items.csv")
    dataset = args.split_log(args.read(), "toy")
    assert dataset.test.num_rows == 2 and "order and no times: split leave-one-out" in caplog.text
    args = read.parse(files, "--format lcrec --interactions_file @ --items_file @items.csv --split chronological")
    with pytest.raises(ValueError, match="found positions.*--split leave_one_out"):
        args.split_log(args.read(), "toy")
    caplog.clear()
    times = "".join(f"u{number % 3},{number % 3 + 1},{100 * number}\n" for number in range(30))
    files["log.csv"] = "user_id,item_id,timestamp\n" + times
    args = read.parse(files, "--items_file @items.csv --interactions_file @log.csv --max_history 3")
    dataset = args.split_log(args.read(), "toy")
    assert dataset.max_history == 3 and dataset.test.num_rows == 3 and not caplog.text
    # Too few rows for three parts.
    args = read.parse(files, "--items_file @items.csv --interactions_file @log.csv --user_k 11")
    with pytest.raises(ValueError, match="items and interactions to be left"):
        args.read()


def test_items_alone(read):
    args = read.parse(CSV, "--items_file @items.csv")
    dataset = args.split_log(args.read(), "toy")
    assert len(dataset.items) == 3 and len(dataset.train) == 0


def test_further_columns(read):
    args = read.parse({"i.csv": "item_id,title,photo\n1,Nut,a.png\n"}, "--items_file @i.csv")
    assert args.read(["title", "photo"]).items[0] == {
        "item_id": "1",
        "title": "Nut",
        "description": "",
        "photo": "a.png",
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--format netflix", "Expected `format` among .*'table', .*'movielens'.* but found 'netflix'"),
        ("--split random", "Expected `split` among .'chronological', 'leave_one_out'., but found 'random'"),
        ("--format movielens --interactions_file x", "The 'movielens' folder holds the interactions too"),
        ("--format sequences", "the file of sequences as `--interactions_file`"),
        ("--format yelp --item_columns title=name", "those of 'yelp' are known"),
        ("--format lcrec --min_rating 3", "Sequences as of 'lcrec' have no columns and ratings"),
        ("--format amazon --delimiter ;", r"\['delimiter'\] only with the formats .*'table', 'sequences'.* 'amazon'"),
        ("--format recbole --header false", r"\['header'\] only with"),
        ("--format lcrec --filters a=b", r"\['filters'\] only with"),
        ("--item_offset 1", r"\['item_offset'\] only with the formats .*sequences"),
        ("--filters event", "Expected `--filters` as pairs"),
    ],
)
def test_options_that_do_not_fit(read, line, words):
    with pytest.raises(ValueError, match=words):
        read(CSV | LOG, f"--items_file @items.csv {line}")


def test_the_help_names_the_forms():
    [text] = [
        field.metadata["help"] for field in RawDataArguments.__dataclass_fields__.values() if field.name == "format"
    ]
    assert all(name in text for name in FORMATS)


def test_too_few_interactions_for_a_split(read):
    files = CSV | {"log.csv": "user_id,item_id,timestamp\nu,1,100\nu,2,200\n"}
    args = read.parse(files, "--items_file @items.csv --interactions_file @log.csv")
    with pytest.raises(ValueError, match="rows in every split, but .* have none.*another `--split` than"):
        args.split_log(args.read(), "toy")
