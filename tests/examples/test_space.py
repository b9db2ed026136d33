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
        # No word begins so: words like it, the most alike first.
        ("hamer", ["hammer"]),
        ("stele srcew", ["screw"]),
        ("steel hamer", []),
        # By id, which no title has.
        ("saw", ["saw"]),
        ("nothing", []),
    ],
)
def test_search(guide, query, items):
    found = guide.search(query)
    assert ids_of(found) == items and found["total"] == len(items)


def test_search_says_when_it_found_only_what_is_close(guide):
    assert not guide.search("steel")["is_close"] and not guide.search("nothing")["is_close"]
    assert guide.search("stel")["is_close"] and ids_of(guide.search("stel")) == ["nail", "screw"]


def test_all_that_is_shown_is_searched():
    index = SIDIndex(["1", "2", "3"], [[0, 0], [0, 1], [1, 0]], titles=["Godfather, The (1972)", "1972", "Saw"])
    fields = {"1": {"genre": "Crime", "brand": "Paramount"}, "3": {"year": "2004", "genre": "Horror, Crime"}}
    found = catalogue.Catalogue(index, fields)
    assert found.item(0) == {"item_id": "1", "title": "The Godfather", "details": ["1972", "Crime", "Paramount"]}
    assert found.item(1)["details"] == [] and found.item(2)["details"] == ["2004", "Horror, Crime"]
    queries = {"crime": ["3", "1"], "crim godf": ["1"], "1972": ["2", "1"], "paramuont": ["1"], "the godfahter": ["1"]}
    assert {query: ids_of(found.search(query, 5)) for query in queries} == queries


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Godfather, The (1972)", ("The Godfather", "1972")),
        ("Close Shave, A", ("A Close Shave", "")),
        ("2001: A Space Odyssey (1968)", ("2001: A Space Odyssey", "1968")),
        ("Star Maker, The (Uomo delle stelle, L')", ("The Star Maker (L'Uomo delle stelle)", "")),
        ("City of Lost Children, The (Cité des enfants perdus, La) (1995)", None),
        ("Die xue shuang xiong (Killer, The)", ("Die xue shuang xiong (The Killer)", "")),
        ("Paris, France", ("Paris, France", "")),
        ("Cry, the Beloved Country", ("Cry, the Beloved Country", "")),
        ("Glue, 5 pieces (3000)", ("Glue, 5 pieces (3000)", "")),
        (", The", (", The", "")),
        ("(1972)", ("", "1972")),
    ],
)
def test_titles_are_shown_as_people_write_them(title, expected):
    expected = expected or ("The City of Lost Children (La Cité des enfants perdus)", "1995")
    assert titles.written_title(title) == expected


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
    assert guide.items(["8"])[0]["title"] == "8"


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
        guide.items(["saw", "spanner"])
    with pytest.raises(ValueError, match="at least one item"):
        guide.recommend([])


def test_delisted_items_can_be_dropped(guide):
    assert guide.recommend(["hammer", "spanner"], unknown_items="drop") == guide.recommend(["hammer"])


################
# Real users
################
@pytest.fixture
def shown(checkpoint, tokenizer, dataset):
    """A checkpoint with real histories, fields of its items and training counts."""
    Showcase({"pear": {"year": "1994"}}, Showcase.draw(dataset).users).save(checkpoint)
    tokenizer.sid_index = tokenizer.sid_index.with_counts([5, 2, 9, 1, 3, 8, 4, 7])
    tokenizer.save_pretrained(checkpoint)
    return recommender.Recommender(str(checkpoint))


def test_examples_are_real_users_and_what_they_took_next_is_known(shown, dataset):
    real = {tuple(row["history"]): row["target"] for row in dataset.test if row["target"] not in row["history"]}
    history = shown.example()
    assert shown.taken_next(history)["item_id"] == real[tuple(history)]
    assert shown.taken_next(history[:-1]) is None and shown.taken_next(["hammer"]) is None
    assert [item["details"] for item in shown.items(["saw", "pear"])] == [[], ["1994"]]


def test_another_user_is_another(shown):
    shown.users = {("hammer", "nail", "saw"): "screw", ("apple", "pear", "bread"): "cheese"}
    history = shown.example()
    assert shown.example(history) != history and tuple(shown.example(shown.example(history))) == tuple(history)


def test_users_of_items_that_are_gone_are_left_out(checkpoint, dataset):
    users = Showcase.draw(dataset).users
    Showcase({}, [users[0]._replace(target="gone"), users[0]._replace(history=["gone", "saw"])]).save(checkpoint)
    assert recommender.Recommender(str(checkpoint)).users == {}


def test_without_real_users_an_example_shares_the_first_token(guide, tokenizer):
    examples = [guide.example(generator=np.random.default_rng(seed)) for seed in range(10)]
    tools, food = {"hammer", "nail", "screw", "saw"}, {"apple", "pear", "bread", "cheese"}
    assert all(len(items) == 3 and (set(items) < tools or set(items) < food) for items in examples)
    assert len(set(map(tuple, examples))) > 1 and all(guide.taken_next(items) is None for items in examples)
    # Popular items come more often, where the index has training counts.
    guide.index = tokenizer.sid_index.with_counts([0, 0, 0, 0, 10**9, 10**9, 10**9, 0])
    examples = [guide.example(generator=np.random.default_rng(seed)) for seed in range(5)]
    assert all(set(items) == {"apple", "pear", "bread"} for items in examples)


def test_a_link_carries_a_history(guide):
    history = ["117", "a&b=c", "ü,1", "117"]
    assert link.history_of(f"?__theme=dark&{link.link_of(history)}&view=1", most=10) == history
    assert link.history_of(link.link_of(history), most=2) == history[-2:]
    assert link.history_of("", 5) == link.history_of("?item", 5) == []
    assert guide.known(["hammer", "<a_0><b_0>", "saw"]) == ["hammer", "saw"]
    assert guide.tokens_in(["hammer", "saw"]) == {"<a_0>", "<b_0>", "<c_0>", "<c_1>"}
    assert len(guide.known(["saw"] * 5000)) == guide.about()["max_items"] == 1000


################
# Lists and the search
################
def test_lists_beside_each_other(shown, model, tokenizer):
    found = shown.compare(["screw", "hammer"], top_k=3)
    [alone] = model.recommend(tokenizer, [["screw", "hammer"]], top_k=3, exclude_history=True)
    assert [item["item_id"] for item in found["model"]] == [item.item_id for item in alone]
    # By training counts, without the screw (9) and the hammer.
    assert [item["item_id"] for item in found["popularity"]] == ["pear", "cheese", "bread"]
    assert found["fused"] is None
    log = Dataset.from_dict({"history": [["hammer"]] * 3, "target": ["pear", "pear", "nail"]})
    shown.tokenizer.set_prior(NextItemPrior.fit(log, shown.index), form="log_linear", weight=50.0)
    assert shown.compare(["hammer"], top_k=3)["fused"][0]["item_id"] == "pear"


def test_without_counts_nothing_is_popular(guide):
    assert guide.compare(["hammer"])["popularity"] is None


def test_the_walk_is_the_search(shown, model, tokenizer):
    history = ["apple", "pear", "bread"]  # cheese came next: <a_1><b_2><c_1>
    steps = shown.walk(history, top_k=2)
    trace = trace_search(model, tokenizer, history, top_k=2, exclude_history=True)
    assert [(step["num_kept"], step["num_cut"], step["num_closed"]) for step in steps] == [
        (len(step.kept), step.num_cut, step.num_closed) for step in trace.steps
    ]
    for step, traced in zip(steps, trace.steps):
        assert [(prefix["tokens"], prefix["log_prob"]) for prefix in step["kept"]] == [
            (prefix.tokens, prefix.log_prob) for prefix in traced.kept
        ]
        place = [prefix["taken"] for prefix in step["kept"]].index(True)
        assert step["taken"] == place + 1
    found = {item.sid for item in trace.items}
    assert {"".join(prefix["tokens"]) for prefix in steps[-1]["kept"] if prefix["found"]} == found
    # Below <a_0> are the tools, the popular ones first.
    [tools] = [prefix for prefix in steps[0]["kept"] if prefix["tokens"] == ("<a_0>",)]
    assert tools["titles"] == ["steel screw", "claw hammer", "steel nail", "hand saw"]
    assert [step["taken"] for step in shown.walk(["apple"])] == [None] * 3


def test_the_walk_tells_where_the_wanted_item_was_cut(shown, monkeypatch):
    last = shown.recommend(["hammer"])[-1]
    shown.users = {("hammer",): last["item_id"]}
    monkeypatch.setattr(shown.model.config, "recommend_num_beams", 1)
    steps = shown.walk(["hammer"], top_k=1)
    wanted = tuple(meaning["token"] for meaning in last["tokens"])
    kept = [wanted[:depth] == step["kept"][0]["tokens"] for depth, step in enumerate(steps, start=1)]
    assert [step["taken"] for step in steps] == [int(one) for one in kept] and not all(kept)
    assert f"was cut at token {kept.index(False) + 1}" in walk.walk_html(steps, last["title"])


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


def test_files_are_found_in_the_checkpoint_or_beside_it(checkpoint, semantics, monkeypatch):
    def read():
        return list(TokenSemantics.from_json(recommender.find_file("description_keywords.json", ".")))

    monkeypatch.chdir(checkpoint)
    (checkpoint / "description_keywords.json").unlink()
    assert recommender.find_file("description_keywords.json", ".") is None
    TokenSemantics([semantics["<a_0>"]]).to_json(checkpoint.parent / "description_keywords.json")
    assert read() == ["<a_0>"]
    TokenSemantics([semantics["<a_1>"]]).to_json(checkpoint / "description_keywords.json")
    assert read() == ["<a_1>"]


################
# Where it comes from
################
@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("outputs/demo/chekpoint", "no.*Did you mean 'outputs/demo/checkpoint'"),
        ("outputs/demmo", "Did you mean 'outputs/demo'.*`--revision main`: here 'outputs' is a folder"),
        ("./demo", "Expected a folder at './demo'.*Check the path.*`make demo`"),
        ("outputs/demo", "no config.json. Did you mean 'outputs/demo/checkpoint'"),
        ("outputs", "no config.json. Make one with `make demo`"),
        ("demo", "a Hub id such as 'me/tsrec-industrial', but found 'demo'"),
    ],
)
def test_a_mistyped_folder_is_no_hub_id(checkpoint, words, tmp_path, monkeypatch):
    (tmp_path / "outputs" / "demo" / "checkpoint").mkdir(parents=True)
    (tmp_path / "outputs" / "demo" / "checkpoint" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=words):
        source.check_source(checkpoint)
    for good in ("outputs/demo/checkpoint", "me/tsrec-industrial"):
        source.check_source(good)
    source.check_source("outputs/demmo", revision="main")


################
# Lists as HTML
################
EVIL = "<script>alert(1)</script>\" onclick='x'"


def buttons_in(html):
    return re.findall(r'<button[^>]*data-action="(\w+)" data-item="([^"]*)"( disabled)?', html)


def make_item(**changes):
    meaning = {"token": "<a_0>", "description": None, "keywords": [], "examples": [], "num_items": 1}
    scores = {"score": -1.0, "log_prob": -1.0, "log_prior": None, "sharing": 0, "tokens": [meaning]}
    return {"item_id": "1", "title": "saw", "details": [], **scores, **changes}


def test_found_items_are_buttons_unless_taken():
    items = [make_item(), make_item(item_id="2", details=["1994", "Crime"])]
    found = {"items": items, "total": 7, "is_close": False}
    html = cards.results_html(found, "s", ["2"])
    assert buttons_in(html) == [("add", "1", ""), ("add", "2", " disabled")]
    assert "2 of 7 matches" in html and html.count("details") == 1 and "1994 · Crime" in html
    assert "2 of 7 items" in cards.results_html(found, " ", [])
    assert "2 matches." in cards.results_html({**found, "total": 2}, "s", [])
    assert "these 2 are close" in cards.results_html({**found, "is_close": True}, "s", [])
    assert "matches “&lt;b&gt;”" in cards.results_html({"items": [], "total": 0, "is_close": False}, "<b> ", [])


def test_the_story_says_what_a_real_user_took_next():
    items = [make_item(title=title) for title in ("one", "two", "three", "four")]
    story = cards.story_html(items[:2], make_item(title="five"), place=3, num_found=10)
    assert "A real user took <em>one</em>, <em>two</em>, and next <strong>five</strong>" in story
    assert "number 3 of 10" in story and "missed" not in story
    assert "not among 10" in cards.story_html(items, make_item(), None, 10)
    assert "After … <em>two</em>, <em>three</em>, <em>four</em>:" in cards.story_html(items, None, None, 10)


def test_lists_mark_what_only_they_have_and_what_was_taken():
    one, two, three = (make_item(item_id=number) for number in "123")
    html = lists.lists_html({"model": [one, two], "popularity": [two, three], "fused": None}, taken_next="2")
    assert [item for _, item, _ in buttons_in(html)] == ["1", "2", "2", "3"]
    assert re.findall(r'<li class="([\w ]*)"', html) == ["own", "taken", "taken", "own"]
    assert html.count("taken next") == 2 and "`fit_prior` does it" in html and "training counts" not in html
    assert "no training counts" in lists.lists_html({"model": [one], "popularity": None, "fused": [one]}, None)


def test_the_walk_says_what_was_kept_and_cut():
    prefix = {"log_prob": math.log(0.5), "num_items": 6, "titles": ["saw", "nail"], "found": True, "taken": False}
    kept = [
        {**prefix, "tokens": ("<a_0>",), "score": -1.0},
        {**prefix, "tokens": ("<a_1>",), "score": -2.0, "found": False, "taken": True},
    ]
    step = {"kept": kept, "num_kept": 5, "num_cut": 1200, "best_cut": kept[0], "cut_prob": 0.031, "num_closed": 2}
    html = walk.walk_html([{**step, "taken": 2}], "hook")
    assert "Token 1: 5 kept" in html and "and 3 more kept" in html and "2 closed" in html
    assert "1,200 cut</span>, 3.1 % together" in html and "saw · nail · 4 more" in html
    assert re.findall(r"width: ([\d.]+)%", html) == ["100.0", f"{100 * math.exp(-1):.1f}"]
    assert re.findall(r'<li class="([\w ]*)"', html) == ["found", "taken"]
    assert "<strong>hook</strong>, which the user took next, was kept, at place 2 in the end" in html
    nothing = {**step, "num_kept": 2, "num_cut": 0, "best_cut": None, "cut_prob": 0.0, "num_closed": 0, "taken": None}
    html = walk.walk_html([nothing], None)
    assert "nothing cut" in html and "more kept" not in html and "closed" not in html and "The way to" not in html


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
    [meaning] = make_item()["tokens"]
    item = make_item(tokens=[{**meaning, "num_items": num_items}])
    assert text in cards.recommendations_html([item], set(), described=True)


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50 %"), (0.012, "1.2 %"), (0.0043, "0.43 %"), (0.00001, "< 0.01 %"), (1.0, "100 %")]
)
def test_percentages(share, text):
    assert cards.percentage(math.log(share)) == text


def test_texts_are_escaped():
    meaning = {"token": EVIL, "description": EVIL, "keywords": [EVIL], "examples": [EVIL], "num_items": 2}
    item = make_item(item_id=EVIL, title=EVIL, details=[EVIL], tokens=[meaning])
    prefix = {"tokens": (EVIL,), "log_prob": -1.0, "score": -1.0, "num_items": 2, "titles": [EVIL]}
    kept = [{**prefix, "found": True, "taken": True}]
    step = {
        "kept": kept,
        "num_kept": 1,
        "num_cut": 1,
        "best_cut": kept[0],
        "cut_prob": 0.1,
        "num_closed": 0,
        "taken": 1,
    }
    for html in (
        cards.recommendations_html([item], set(), True, EVIL),
        cards.results_html({"items": [item], "total": 1, "is_close": False}, EVIL, []),
        cards.results_html({"items": [], "total": 0, "is_close": False}, EVIL, []),
        cards.history_html([item], 5),
        cards.story_html([item], item, 1, 10),
        cards.message_html(EVIL, "error"),
        lists.lists_html({"model": [item], "popularity": None, "fused": [item]}, EVIL),
        walk.walk_html([step], EVIL),
        walk.walk_html([{**step, "taken": 0}], EVIL),
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
    assert needed == [re.search(r"rapidfuzz\S+", config["options.extras_require"]["space"])[0], "tsrec_hf>=0.1"]


def stopped(folder, *line):
    """What the page says when it stops by itself."""
    run = subprocess.run(
        [sys.executable, SPACE / "app.py", *line], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert run.returncode != 0
    return run.stderr


def test_the_page_stops_with_a_reason(tmp_path):
    assert "Expected a folder at 'no/such/folder', but there is none." in stopped(tmp_path, "no/such/folder")


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="Gradio is installed")
def test_without_gradio_the_page_says_what_to_install(checkpoint):
    assert 'pip install ".[space]"' in stopped(checkpoint, ".")
