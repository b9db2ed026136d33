import os

import pytest

from tsrec_hf.data import build_alignment_rows
from tsrec_hf.items import load_minionerec
from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.semantics import TokenDescription, TokenSemantics


INDUSTRIAL = os.environ.get("TSREC_DATA")
needs_data = pytest.mark.skipif(
    not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific"
)


def pairs(rows):
    return list(zip(rows["prompt"], rows["completion"]))


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


def test_prompts_begin_with_the_start_token_where_the_backbone_adds_one(semantics, make_recommender):
    _, tokenizer = make_recommender(add_bos=True)
    rows = build_alignment_rows(semantics, tokenizer, keywords=True)
    assert all(row["prompt"].startswith("<s>") and row["prompt"].count("<s>") == 1 for row in rows)
    assert not any("<s>" in row["completion"] for row in rows)


def test_errors(semantics, tokenizer):
    fewer = TokenSemantics(entry for entry in semantics.values() if entry.token != "<b_2>")
    with pytest.raises(KeyError, match="Token '<b_2>' has no description"):
        build_alignment_rows(fewer, tokenizer)
    blank = TokenSemantics([*fewer.values(), TokenDescription("<b_2>", " ", ["dairy"])])
    with pytest.raises(ValueError, match="Expected a description of '<b_2>'.* Describe the token again"):
        build_alignment_rows(blank, tokenizer)


@needs_data
def test_industrial_counts(backbone_dir):
    dataset = load_minionerec(INDUSTRIAL)
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index)
    semantics = TokenSemantics.from_json(f"{INDUSTRIAL}/description_keywords.json")
    assert build_alignment_rows(semantics, tokenizer).num_rows == 2 * 560
    assert build_alignment_rows(semantics, tokenizer, keywords=True).num_rows == 3 * 560
