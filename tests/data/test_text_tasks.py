import os

import pytest
from datasets import Dataset

from tsrec_hf.data import build_alignment_rows, build_history_title_rows, build_title_rows
from tsrec_hf.items import load_minionerec
from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.semantics import TokenDescription, TokenSemantics


INDUSTRIAL = os.environ.get("TSREC_DATA")
needs_data = pytest.mark.skipif(
    not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific"
)


def pairs(rows):
    return list(zip(rows["prompt"], rows["completion"]))


def test_title_rows_by_hand(dataset, tokenizer):
    rows = build_title_rows(dataset.items, tokenizer)
    assert rows.column_names == ["prompt", "completion", "task"] and set(rows["task"]) == {"title"}
    assert pairs(rows)[:4] == [
        ("<a_0><b_0><c_0> is titled:", " claw hammer</s>"),
        ("The item titled: claw hammer is:", "<a_0><b_0><c_0>"),
        ("<a_0><b_1><c_0> is titled:", " steel nail</s>"),
        ("The item titled: steel nail is:", "<a_0><b_1><c_0>"),
    ]


def test_duplicate_titles_and_colliding_sids_keep_their_rows(dataset, tokenizer):
    # Nail and screw share a SID; here screw and saw share a title as well.
    items = Dataset.from_dict({"item_id": ["nail", "screw", "saw"], "title": ["steel nail", "steel", "steel"]})
    assert pairs(build_title_rows(items, tokenizer)) == [
        ("<a_0><b_1><c_0> is titled:", " steel nail</s>"),
        ("The item titled: steel nail is:", "<a_0><b_1><c_0>"),
        ("<a_0><b_1><c_0> is titled:", " steel</s>"),
        ("The item titled: steel is:", "<a_0><b_1><c_0>"),
        ("<a_0><b_0><c_1> is titled:", " steel</s>"),
        ("The item titled: steel is:", "<a_0><b_0><c_1>"),
    ]
    rows = build_history_title_rows(dataset.train, items_with_title(dataset, "steel"), tokenizer)
    assert rows.num_rows == len(dataset.train)


def items_with_title(dataset, title):
    return dataset.items.map(lambda item: {"title": title})


def test_items_without_a_title_have_no_rows(dataset, tokenizer):
    items = Dataset.from_dict({"item_id": ["nail", "screw", "saw"], "title": ["", " \n", "hand saw"]})
    assert pairs(build_title_rows(items, tokenizer)) == [
        ("<a_0><b_0><c_1> is titled:", " hand saw</s>"),
        ("The item titled: hand saw is:", "<a_0><b_0><c_1>"),
    ]
    assert build_title_rows(items.select([0, 1]), tokenizer).num_rows == 0
    interactions = Dataset.from_dict({"history": [["apple"], ["apple"]], "target": ["nail", "saw"]})
    assert pairs(build_history_title_rows(interactions, items, tokenizer)) == [
        ("Items chosen in order:<a_1><b_0><c_0> The title of the next:", " hand saw</s>")
    ]


def test_history_title_rows_by_hand(dataset, tokenizer):
    rows = build_history_title_rows(dataset.train, dataset.items, tokenizer)
    assert rows.num_rows == 6 and set(rows["task"]) == {"history_title"}
    assert pairs(rows)[4] == (
        "Items chosen in order:<a_0><b_0><c_0><a_0><b_1><c_0><a_0><b_0><c_1> The title of the next:",
        " steel screw</s>",
    )


def test_history_title_rows_keep_the_last_ten_items(dataset, tokenizer):
    rows = Dataset.from_dict({"history": [["apple"] * 4 + ["saw"] * 10], "target": ["pear"]})
    [(prompt, _)] = pairs(build_history_title_rows(rows, dataset.items, tokenizer))
    assert prompt == "Items chosen in order:" + "<a_0><b_0><c_1>" * 10 + " The title of the next:"


def test_alignment_rows_by_hand(semantics, tokenizer):
    rows = build_alignment_rows(semantics, tokenizer)
    assert set(rows["task"]) == {"alignment"}
    assert pairs(rows) == [
        pair
        for token, word in zip(
            ["<a_0>", "<a_1>", "<b_0>", "<b_1>", "<b_2>", "<c_0>", "<c_1>"],
            ["tools", "food", "handle", "fastener", "dairy", "hammer", "sharp"],
        )
        for pair in [
            (f"{token} means:", f" {word} items</s>"),
            (f"Which token means: {word} items It is:", token),
        ]
    ]


def test_keywords_are_a_third_row_of_every_token(semantics, tokenizer):
    rows = build_alignment_rows(semantics, tokenizer, keywords=True)
    assert rows.num_rows == 3 * 7
    assert [pair for pair in pairs(rows) if pair[0].startswith("Keywords")][5] == (
        "Keywords for <c_0>:",
        " hammer, steel, rye bread</s>",
    )
    assert [pair for pair in pairs(rows) if not pair[0].startswith("Keywords")] == pairs(
        build_alignment_rows(semantics, tokenizer)
    )


def test_tokens_beyond_the_index_have_no_rows(semantics, tokenizer):
    more = TokenSemantics([*semantics.values(), TokenDescription("<z_9>", "strays", ["stray"])])
    assert pairs(build_alignment_rows(more, tokenizer)) == pairs(build_alignment_rows(semantics, tokenizer))


def test_prompts_begin_with_the_start_token_where_the_backbone_adds_one(dataset, semantics, make_recommender):
    _, tokenizer = make_recommender(add_bos=True)
    rows = [
        *build_title_rows(dataset.items, tokenizer),
        *build_history_title_rows(dataset.train, dataset.items, tokenizer),
        *build_alignment_rows(semantics, tokenizer, keywords=True),
    ]
    assert all(row["prompt"].startswith("<s>") and row["prompt"].count("<s>") == 1 for row in rows)
    assert not any("<s>" in row["completion"] for row in rows)


def test_errors(dataset, semantics, tokenizer):
    with pytest.raises(ValueError, match=r"items with the columns .* but \['title'\] are missing from \['item_id'"):
        build_title_rows(dataset.items.remove_columns("title"), tokenizer)
    with pytest.raises(ValueError, match=r"interactions with the columns .* but \['target'\] are missing"):
        build_history_title_rows(dataset.train.remove_columns("target"), dataset.items, tokenizer)
    with pytest.raises(ValueError, match=r"items with the columns .* but \['item_id'\] are missing"):
        build_history_title_rows(dataset.train, dataset.items.remove_columns("item_id"), tokenizer)
    with pytest.raises(KeyError, match="Target 'nail' is not among the 1 items"):
        build_history_title_rows(dataset.train, dataset.items.select([0]), tokenizer)
    unknown = Dataset.from_dict({"item_id": ["axe"], "title": ["sharp axe"]})
    with pytest.raises(KeyError, match="Item 'axe' is not among the 8 items"):
        build_title_rows(unknown, tokenizer)
    empty = Dataset.from_dict({"history": [[]], "target": ["nail"]})
    with pytest.raises(ValueError, match="at least one item, but found an empty one"):
        build_history_title_rows(empty, dataset.items, tokenizer)
    fewer = TokenSemantics(entry for entry in semantics.values() if entry.token != "<b_2>")
    with pytest.raises(KeyError, match="Token '<b_2>' has no description"):
        build_alignment_rows(fewer, tokenizer)


@needs_data
def test_industrial_counts(backbone_dir):
    dataset = load_minionerec(INDUSTRIAL)
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index)
    semantics = TokenSemantics.from_json(f"{INDUSTRIAL}/description_keywords.json")
    titles = build_title_rows(dataset.items, tokenizer)
    assert titles.num_rows == 2 * 3_686
    # 40 titles are not the first of their wording, and no row is lost for it.
    assert len(set(dataset.items["title"])) < 3_686
    assert build_alignment_rows(semantics, tokenizer).num_rows == 2 * 560
    assert build_alignment_rows(semantics, tokenizer, keywords=True).num_rows == 3 * 560
