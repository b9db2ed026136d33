import math
import sys

import numpy as np
import pytest
from datasets import Dataset
from scipy.sparse import csr_matrix

from tsrec_hf.models import SIDIndex
from tsrec_hf.semantics import KeywordTeacher, TokenDescription, TokenSemantics, describe_tokens
from tsrec_hf.semantics.keyword_teacher import class_tfidf


def titled(*titles: str) -> list[dict]:
    return [{"item_id": str(row), "title": title, "description": ""} for row, title in enumerate(titles)]


class RecordingTeacher:
    """Writes down what it was asked and answers with the token itself."""

    def __init__(self) -> None:
        self.calls = []

    def describe(self, clusters):
        self.calls.append({token: [item["item_id"] for item in items] for token, items in clusters.items()})
        return {
            token: TokenDescription(token=token, description=f"About {token}.", keywords=[token]) for token in clusters
        }


def test_class_tfidf_worked_by_hand() -> None:
    # Two classes of 4 and 2 votes: A = 3. Term totals 3, 1, 2.
    # class 0: 3/4 log(1 + 3/3) = 0.75 log 2,   1/4 log(1 + 3/1) = 0.25 log 4,   0
    # class 1: 0,   0,   2/2 log(1 + 3/2) = log 2.5
    weights = class_tfidf(csr_matrix([[3, 1, 0], [0, 0, 2]])).toarray()
    expected = [[0.75 * math.log(2), 0.25 * math.log(4), 0], [0, 0, math.log(2.5)]]
    np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_keywords_are_ranked_by_the_weight_worked_by_hand() -> None:
    # All text is title here, so every vote counts double, which cancels out. Numbers are no words.
    # Votes for words and phrases of <a_0>: steel 3, bolt 2, nut 1, "steel bolt" 2, "steel nut" 1: 9 in all;
    # of <a_1>: steel 2, wire 2, "steel wire" 2: 6 in all. A = 7.5. Term totals: steel 5, others as in their cluster.
    # <a_0>: "steel bolt" 2/9 log 4.75 = 0.346, steel 3/9 log 2.5 = 0.305, nut 1/9 log 8.5 = 0.238. Bolt is always part
    # of "steel bolt", and "steel nut" has one item only. <a_1>: both words always come as "steel wire".
    clusters = {
        "<a_0>": titled("Steel bolt", "Steel bolt 2", "Steel nut"),
        "<a_1>": titled("Steel wire", "Steel wire 2"),
    }
    described = KeywordTeacher().describe(clusters)
    assert described["<a_0>"].keywords == ["steel bolt", "steel", "nut"]
    assert described["<a_1>"].keywords == ["steel wire"]


def test_words_that_separate_siblings_come_first() -> None:
    clusters = {
        "<b_0>": titled("Industrial nitrile glove", "Industrial latex glove", "Industrial vinyl glove"),
        "<b_1>": titled("Industrial masking tape", "Industrial duct tape", "Industrial foil tape"),
    }
    described = KeywordTeacher(num_keywords=2).describe(clusters)
    assert described["<b_0>"].keywords[0] == "glove" and described["<b_1>"].keywords[0] == "tape"
    assert "nitrile" not in described["<b_1>"].keywords


def test_a_title_votes_once_more() -> None:
    # Votes: latex, glove, "latex glove" 2 each; soft, blue, "glove soft", "soft blue" 1 each: A = 10.
    # glove, latex: 2/10 log(1 + 10/2) = 0.358. blue, soft, from the description alone: 1/10 log(1 + 10/1) = 0.240.
    item = {"item_id": "0", "title": "Latex glove", "description": "soft blue"}
    assert KeywordTeacher().describe({"<a_0>": [item]})["<a_0>"].keywords == ["glove", "latex", "blue", "soft"]


def test_repeating_a_word_does_not_help() -> None:
    loud = {"item_id": "0", "title": "Washer", "description": "cheap cheap cheap cheap cheap"}
    keywords = KeywordTeacher(num_keywords=1).describe({"<a_0>": [loud, *titled("Washer kit")]})["<a_0>"].keywords
    assert keywords == ["washer"]


def test_overlapping_phrases_are_not_chained() -> None:
    # "bit set", "cobalt drill" and "drill bit" weigh the same; the third adds no word to the first two.
    described = KeywordTeacher().describe({"<a_0>": titled("Cobalt drill bit set", "Cobalt drill bit set 2")})
    assert described["<a_0>"].keywords == ["bit set", "cobalt drill"]


def test_stop_words_and_bare_numbers_are_no_keywords() -> None:
    described = KeywordTeacher().describe({"<a_0>": titled("The 12 pack of M8 bolts, 1/4")})
    assert described["<a_0>"].keywords == ["bolts", "m8", "pack"]


def test_words_of_a_single_item_come_last() -> None:
    # a14041 outweighs pack and screw, which <a_1> has too (2/10 log 5 against 2/10 log 3), but tells of one item only.
    clusters = {"<a_0>": titled("A14041 screw pack"), "<a_1>": titled("Screw pack")}
    assert KeywordTeacher().describe(clusters)["<a_0>"].keywords == ["pack", "screw", "a14041"]


def test_description_names_keywords_and_typical_titles() -> None:
    clusters = {"<a_0>": titled("Odd thing", "Drill", "Drill", "Drill oil.", "7 drill"), "<a_1>": titled("Tape")}
    described = KeywordTeacher(num_keywords=2, num_titles=2).describe(clusters)
    # drill has three votes; "Drill oil." carries oil as well. Equal titles count and are named once.
    assert described["<a_0>"].description == "Items about drill and odd. For example: Drill; Drill oil."
    assert KeywordTeacher(num_titles=0).describe(clusters)["<a_1>"].description == "Items about tape."


def test_items_of_one_title_count_as_one() -> None:
    # Three colours under one title are one item of <a_0>: no phrase has two items, and only the descriptions differ.
    shoe = titled("Running shoe", "running  shoe", "Running shoe")
    assert KeywordTeacher().describe({"<a_0>": shoe})["<a_0>"].keywords == ["running", "shoe"]
    colours = [item | {"description": text} for item, text in zip(shoe, ("red sole", "blue sole", "red sole"))]
    # "sole" is in two descriptions, "red sole" in two items that say the same.
    keywords = KeywordTeacher().describe({"<a_0>": colours, "<a_1>": titled("Shoe")})["<a_0>"].keywords
    assert "red sole" not in keywords and "running shoe" not in keywords and "sole" in keywords


def test_long_titles_are_cut_at_a_word(caplog) -> None:
    caplog.set_level("INFO", "tsrec_hf")
    long = "Stainless steel bottle " * 40
    described = KeywordTeacher().describe({"<a_0>": titled(long.strip(), "Bottle", f"Cap {long}")})["<a_0>"]
    first = "Stainless steel bottle Stainless steel bottle Stainless steel bottle Stainless"
    assert f"For example: Cap {first.removesuffix(' Stainless')}; {first}; Bottle." in described.description
    assert "2 titles in descriptions were cut to their first 80 characters" in caplog.text
    # Titles that stand for keywords, too: 300 numbers have no word.
    numbers = " ".join(map(str, range(300)))
    [keyword] = KeywordTeacher(num_titles=0).describe({"<a_0>": titled(numbers)})["<a_0>"].keywords
    assert keyword == " ".join(map(str, range(30)))
    # An address is no word.
    described = KeywordTeacher().describe({"<a_0>": titled("Bottle " + "x" * 41)})["<a_0>"]
    assert described.keywords == ["bottle"]


@pytest.mark.parametrize(
    ("item", "keywords"),
    [
        ({"item_id": "7", "title": "", "description": "Blue ink"}, ["blue", "ink"]),
        ({"item_id": "7", "title": None, "description": None, "brand": "Acme", "price": 3.5}, ["acme"]),
        ({"item_id": "7", "title": " ", "class": ["Drama", "War"]}, ["drama", "war"]),
        ({"item_id": "7", "title": "It", "description": ""}, ["It"]),
        ({"item_id": "7", "title": "300", "description": "12"}, ["300"]),
    ],
)
def test_fallbacks_for_items_with_little_text(item: dict, keywords: list[str]) -> None:
    clusters = {"<a_0>": [item], "<a_1>": titled("Latex glove")}
    assert KeywordTeacher().describe(clusters)["<a_0>"].keywords == keywords
    assert KeywordTeacher().describe({"<a_0>": [item]})["<a_0>"].keywords == keywords


def test_cluster_without_any_text_is_an_error_that_names_it() -> None:
    clusters = {"<a_0>": titled("Latex glove"), "<a_1>": [{"item_id": "7", "title": "", "description": ""}]}
    with pytest.raises(ValueError, match=r"1 items of <a_1>, found none.*'7'"):
        KeywordTeacher().describe(clusters)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="`num_keywords` of at least 1"):
        KeywordTeacher(num_keywords=0)


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[keywords\]"'):
        KeywordTeacher().describe({"<a_0>": titled("Tape")})


def test_describe_tokens_gathers_each_level() -> None:
    index = SIDIndex(
        ["p", "q", "r"],
        np.array([[0, 2], [1, 2], [0, 0]], dtype=np.int32),
        tokens=[["<a_4>", "<a_9>"], ["<b_0>", "<b_1>", "<b_2>"]],
    )
    items = [{"item_id": item_id, "title": item_id} for item_id in ("r", "unused", "q", "p")]
    teacher = RecordingTeacher()
    semantics = describe_tokens(items, index, teacher)
    assert teacher.calls == [{"<a_4>": ["p", "r"], "<a_9>": ["q"]}, {"<b_0>": ["r"], "<b_2>": ["p", "q"]}]
    assert list(semantics) == ["<a_4>", "<a_9>", "<b_0>", "<b_2>"]  # <b_1> has no item
    assert semantics["<b_2>"].description == "About <b_2>."


def test_describe_tokens_reads_a_dataset_table() -> None:
    items = Dataset.from_dict({"item_id": ["1", "2"], "title": ["Glove", "Tape"], "description": ["", ""]})
    semantics = describe_tokens(items, SIDIndex(["1", "2"], np.array([[0, 0], [1, 0]], dtype=np.int32)))
    keywords = {token: semantics[token].keywords for token in semantics}
    assert keywords == {"<a_0>": ["glove"], "<a_1>": ["tape"], "<b_0>": ["glove", "tape"]}


def test_describe_tokens_wants_every_indexed_item() -> None:
    with pytest.raises(ValueError, match=r"each of the 2 items.*none for 1 of them, first 'x'"):
        describe_tokens(titled("Tape"), SIDIndex(["0", "x"], np.array([[0, 0], [1, 0]], dtype=np.int32)))


class TestAGrownCatalogue:
    """Level 0 keeps its tokens; `<b_1>` had no item and gets its first one; `<b_0>` loses its only one."""

    before = SIDIndex(["0", "1"], [[0, 0], [1, 2]], tokens=[["<a_0>", "<a_1>"], ["<b_0>", "<b_1>", "<b_2>"]])
    after = before.with_items(["2", "3"], codes=[[0, 1], [0, 2]]).without_items(["0"])
    items = titled("Steel bolt", "Red glue", "Steel nut", "Steel wire")

    def test_only_new_tokens_are_asked_for(self) -> None:
        earlier = describe_tokens(self.items, self.before, RecordingTeacher())
        teacher = RecordingTeacher()
        described = describe_tokens(self.items, self.after, teacher, earlier=earlier)
        assert teacher.calls == [{"<b_1>": ["2"]}]
        assert list(described) == ["<a_0>", "<a_1>", "<b_0>", "<b_1>", "<b_2>"]
        assert all(described[token] is earlier[token] for token in earlier)
        assert described.fingerprint == self.after.fingerprint
        described.check_index(self.after)
        # Nothing new, nothing asked.
        assert describe_tokens(self.items, self.after, teacher, earlier=described) == described
        assert len(teacher.calls) == 1

    def test_keywords_of_a_new_token_set_it_apart_from_all_its_siblings(self) -> None:
        earlier = describe_tokens(self.items, self.before)
        [new] = set(describe_tokens(self.items, self.after, earlier=earlier)) - set(earlier)
        described = describe_tokens(self.items, self.after, earlier=earlier)
        assert described[new] == describe_tokens(self.items, self.after)[new]

    def test_descriptions_of_another_catalogue(self) -> None:
        other = SIDIndex(["0", "1"], [[0, 0], [1, 1]])
        with pytest.raises(ValueError, match="these belong to index"):
            describe_tokens(self.items, self.after, earlier=describe_tokens(self.items, other))
        strange = TokenSemantics([TokenDescription("<a_7>", "Tools.", ["saw"])])
        with pytest.raises(ValueError, match="lacks 1 of 1, such as '<a_7>'"):
            describe_tokens(self.items, self.after, earlier=strange)
