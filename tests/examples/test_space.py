"""The page to try a recommender: what it shows, without a browser and without Gradio."""

import configparser
import importlib.util
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from datasets import Dataset

from tsrec_hf import NextItemPrior, Showcase, SIDIndex, TokenSemantics, trace_search


pytest.importorskip("rapidfuzz", reason='needs RapidFuzz: pip install "tsrec_hf[space]"')
SPACE = Path(__file__).parents[2] / "examples" / "space"
with pytest.MonkeyPatch.context() as patch:
    # Its modules import each other by their short names.
    patch.syspath_prepend(str(SPACE))
    cards, catalogue, link, lists, recommender, source, titles, walk = (
        SimpleNamespace(**runpy.run_path(str(SPACE / f"{name}.py")))
        for name in ("cards", "catalogue", "link", "lists", "recommender", "source", "titles", "walk")
    )


@pytest.fixture
def checkpoint(model, tokenizer, semantics, tmp_path):
    folder = tmp_path / "demo" / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    semantics.to_json(folder / "description_keywords.json")
    return folder


@pytest.fixture
def guide(checkpoint):
    return recommender.Recommender(str(checkpoint))


def ids_of(found):
    return [item["item_id"] for item in found["items"]]


################
# Search
################
@pytest.mark.parametrize(
    ("query", "items"),
    [
        ("steel", ["nail", "screw"]),
        ("SCR ste", ["screw"]),
        # Titles that begin with it, the shorter first; then other words that do.
        ("ha", ["saw", "cheese", "hammer"]),
        ("  Häm-  ", ["hammer"]),
        ("amme", []),
        # By id, which no title has.
        ("saw", ["saw"]),
        ("nothing", []),
    ],
)
def test_search(guide, query, items):
    found = guide.search(query)
    assert ids_of(found) == items and found["total"] == len(items)


def test_search_counts_what_it_does_not_show(guide):
    found = guide.search("steel", limit=1)
    assert ids_of(found) == ["nail"] and found["total"] == 2
    # Nothing typed: some of everything, from first to last.
    found = guide.search(" ! ", limit=3)
    assert ids_of(found) == ["hammer", "saw", "cheese"] and found["total"] == 8


def test_an_id_comes_first_and_stands_for_a_missing_title(make_recommender, tmp_path):
    index = SIDIndex(["7", "8", "9"], [[0, 0, 0], [0, 1, 0], [1, 2, 1]], titles=["8 nails", " ", "hook"])
    model, tokenizer = make_recommender(index=index, semantics=None)
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    guide = recommender.Recommender(str(tmp_path / "checkpoint"))
    assert ids_of(guide.search("8")) == ["8", "7"]
    assert guide.title_of("8") == "8"


################
# Recommendations
################
def test_recommendations_are_those_of_the_model(guide, model, tokenizer):
    history = ["hammer", "apple"]
    found = guide.recommend(history, top_k=4)
    [expected] = model.recommend(tokenizer, [history], top_k=4, exclude_history=True)
    assert [(item["item_id"], item["sid"]) for item in found] == [(item.item_id, item.sid) for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item.score for item in expected])
    everything = {item["item_id"]: item for item in guide.recommend(history)}
    assert set(everything) == set(tokenizer.sid_index.item_ids) - set(history)
    assert everything["nail"]["title"] == "steel nail"
    # Nail and screw are spelled alike.
    assert everything["nail"]["sharing"] == everything["screw"]["sharing"] == 1 and everything["saw"]["sharing"] == 0


def test_a_fitted_prior_takes_part_and_can_be_left_out(checkpoint, guide, model, tokenizer):
    assert not guide.about()["has_prior"] and guide.recommend(["hammer"])[0]["log_prior"] is None
    log = Dataset.from_dict({"history": [["hammer"]] * 3, "target": ["pear", "pear", "nail"]})
    tokenizer.set_prior(NextItemPrior.fit(log, tokenizer.sid_index), form="log_linear", weight=50.0)
    tokenizer.save_pretrained(checkpoint)
    guide = recommender.Recommender(str(checkpoint))
    assert guide.about()["has_prior"]
    found, alone = guide.recommend(["hammer"]), guide.recommend(["hammer"], use_prior=False)
    assert found[0]["item_id"] == "pear"
    assert all(item["score"] == pytest.approx(item["log_prob"] + item["log_prior"]) for item in found)
    assert all(item["log_prior"] is None and item["log_prob"] == item["score"] for item in alone)
    [expected] = model.recommend(tokenizer, [["hammer"]], exclude_history=True, prior=None)
    assert [item["item_id"] for item in alone] == [item.item_id for item in expected]
    [first, *_] = re.findall(r'<span class="log">(.*?)</span>', cards.recommendations_html(found, set(), True))
    assert first == f"log&nbsp;p&nbsp;{found[0]['log_prob']:.2f}, prior&nbsp;{found[0]['log_prior']:.2f}"


def test_unknown_items_and_empty_histories_are_errors(guide):
    with pytest.raises(KeyError, match="Item 'spanner' is not among the 8 items"):
        guide.recommend(["hammer", "spanner"])
    with pytest.raises(KeyError, match="spanner"):
        guide.title_of("spanner")
    with pytest.raises(ValueError, match="at least one item"):
        guide.recommend([])


def test_delisted_items_can_be_dropped(guide):
    assert guide.recommend(["hammer", "spanner"], unknown_items="drop") == guide.recommend(["hammer"])


def test_an_example_shares_the_first_token(guide):
    examples = [guide.example(np.random.default_rng(seed)) for seed in range(10)]
    tools, food = {"hammer", "nail", "screw", "saw"}, {"apple", "pear", "bread", "cheese"}
    assert all(len(items) == 3 and (set(items) < tools or set(items) < food) for items in examples)
    assert len(set(map(tuple, examples))) > 1


################
# Meanings
################
def test_every_token_is_explained(guide):
    first, second, third = guide.explain("nail")
    assert (first["token"], first["description"], first["num_items"]) == ("<a_0>", "tools items", 4)
    assert first["keywords"] == ["tools", "metal"]
    assert first["examples"] == ["claw hammer", "steel screw", "hand saw"]
    assert (second["token"], second["examples"]) == ("<b_1>", ["steel screw", "rye bread"])
    assert (third["token"], third["num_items"], len(third["examples"])) == ("<c_0>", 5, 4)


def test_tokens_without_a_description_have_their_items(checkpoint, semantics):
    path = checkpoint / "description_keywords.json"
    TokenSemantics([semantics["<a_1>"]]).to_json(path)
    guide = recommender.Recommender(str(checkpoint))
    assert guide.explain("apple")[0]["description"] == "food items" and guide.about()["described"]
    assert guide.explain("nail")[0]["description"] is None and guide.explain("nail")[0]["examples"]
    path.unlink()
    guide = recommender.Recommender(str(checkpoint))
    assert not guide.about()["described"]
    assert [meaning["description"] for meaning in guide.explain("apple")] == [None] * 3


def test_meanings_are_found_in_the_checkpoint_or_beside_it(checkpoint, semantics, monkeypatch):
    (checkpoint / "description_keywords.json").unlink()
    assert recommender.find_semantics(str(checkpoint)) is None
    TokenSemantics([semantics["<a_0>"]]).to_json(checkpoint.parent / "description_keywords.json")
    assert list(recommender.find_semantics(str(checkpoint))) == ["<a_0>"]
    monkeypatch.chdir(checkpoint)
    assert list(recommender.find_semantics(".")) == ["<a_0>"]
    TokenSemantics([semantics["<a_1>"]]).to_json(checkpoint / "description_keywords.json")
    assert list(recommender.find_semantics(str(checkpoint))) == ["<a_1>"]


def test_a_missing_checkpoint_is_an_error():
    with pytest.raises(FileNotFoundError, match="no folder 'outputs/none/checkpoint'.*`make demo`"):
        recommender.Recommender("outputs/none/checkpoint")


################
# Lists as HTML
################
EVIL = "<script>alert(1)</script>\" onclick='x'"


def buttons_in(html):
    return re.findall(r'<button[^>]*data-action="(\w+)" data-item="([^"]*)"( disabled)?', html)


def test_found_items_are_buttons_unless_taken():
    found = {"items": [{"item_id": "1", "title": "saw"}, {"item_id": "2", "title": "nail"}], "total": 7}
    html = cards.results_html(found, "s", ["2"])
    assert buttons_in(html) == [("add", "1", ""), ("add", "2", " disabled")]
    assert "2 of 7 matches" in html
    assert "2 of 7 items" in cards.results_html(found, " ", [])
    assert "2 matches." in cards.results_html({**found, "total": 2}, "s", [])
    assert "matches “&lt;b&gt;”" in cards.results_html({"items": [], "total": 0}, "<b> ", [])


def test_the_history_says_what_is_no_longer_read():
    items = [{"item_id": str(number), "title": f"item {number}"} for number in range(3)]
    html = cards.history_html(items, max_history=2)
    assert buttons_in(html) == [("remove", str(number), "") for number in range(3)]
    assert html.count('class="unread"') == 1 and html.index("unread") < html.index("item 0")
    assert "reads the last 2" in html and "reads the last" not in cards.history_html(items, max_history=3)
    assert "Empty" in cards.history_html([], max_history=2)


def test_cards_show_scores_and_meanings(guide):
    found = guide.recommend(["nail", "apple"])
    html = cards.recommendations_html(found, {"<a_0>"}, described=True)
    assert [item for action, item, _ in buttons_in(html) if action == "add"] == [item["item_id"] for item in found]
    widths = [float(width) for width in re.findall(r"width: ([\d.]+)%", html)]
    assert widths == [round(100 * math.exp(item["score"] - found[0]["score"]), 1) for item in found]
    assert html.count("<details open>") == 1 and "no descriptions" not in html
    for text in ("tools items", "4 items, such as", "Shares its tokens, and so its score, with 1 other item."):
        assert text in html
    # Framed: the summaries of the tools that are left, hammer, screw and saw.
    assert html.count('level-0 known"') == 3
    assert "no descriptions" in cards.recommendations_html(found, set(), described=False)


@pytest.mark.parametrize(
    ("num_items", "text"), [(1, "No other item has this token."), (3, "2 more of the same title.")]
)
def test_a_token_without_other_titles(num_items, text):
    meaning = {"token": "<a_0>", "description": None, "keywords": [], "examples": [], "num_items": num_items}
    item = {
        "item_id": "1",
        "title": "saw",
        "score": -1.0,
        "log_prob": -1.0,
        "log_prior": None,
        "sharing": 0,
        "tokens": [meaning],
    }
    assert text in cards.recommendations_html([item], set(), described=True)


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50 %"), (0.012, "1.2 %"), (0.0043, "0.43 %"), (0.00001, "< 0.01 %"), (1.0, "100 %")]
)
def test_percentages(share, text):
    assert cards.percentage(math.log(share)) == text


def test_texts_are_escaped():
    meaning = {"token": "<a_0>", "description": EVIL, "keywords": [EVIL], "examples": [EVIL], "num_items": 2}
    item = {
        "item_id": EVIL,
        "title": EVIL,
        "score": -1.0,
        "log_prob": -1.0,
        "log_prior": None,
        "sharing": 0,
        "tokens": [meaning],
    }
    for html in (
        cards.recommendations_html([item], set(), True),
        cards.results_html({"items": [item], "total": 1}, EVIL, []),
        cards.results_html({"items": [], "total": 0}, EVIL, []),
        cards.history_html([item], 5),
        cards.message_html(EVIL, "error"),
    ):
        assert "<script" not in html and "' onclick" not in html and '" onclick' not in html
        assert "&lt;script&gt;" in html


################
# As a Space
################
def test_the_header_names_files_and_versions_that_exist():
    header = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk"] == "gradio" and (SPACE / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60
    config = configparser.ConfigParser()
    config.read(SPACE.parents[1] / "setup.cfg")
    lowest = re.search(r"gradio>=([\d.]+)", config["options.extras_require"]["space"])[1]
    assert header["sdk_version"].startswith(lowest)
    needed = [line for line in (SPACE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert needed == ["tsrec_hf>=0.1"]


def test_the_page_stops_with_a_reason(tmp_path):
    run = subprocess.run(
        [sys.executable, SPACE / "app.py", "no/such/folder"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode != 0
    has_gradio = importlib.util.find_spec("gradio") is not None
    assert ("no folder 'no/such/folder'" if has_gradio else 'pip install ".[space]"') in run.stderr
