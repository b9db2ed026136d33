import os

import pytest
from datasets import Dataset

from tsrec_hf.data import build_title_rows
from tsrec_hf.items import load_minionerec
from tsrec_hf.models import TSRecTokenizer


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


def test_duplicate_titles_and_colliding_sids_keep_their_rows(tokenizer):
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


def test_items_without_a_title_have_no_rows(tokenizer):
    items = Dataset.from_dict({"item_id": ["nail", "screw", "saw"], "title": ["", " \n", "hand saw"]})
    assert pairs(build_title_rows(items, tokenizer)) == [
        ("<a_0><b_0><c_1> is titled:", " hand saw</s>"),
        ("The item titled: hand saw is:", "<a_0><b_0><c_1>"),
    ]
    assert build_title_rows(items.select([0, 1]), tokenizer).num_rows == 0


def test_prompts_begin_with_the_start_token_where_the_backbone_adds_one(dataset, make_recommender):
    _, tokenizer = make_recommender(add_bos=True)
    rows = build_title_rows(dataset.items, tokenizer)
    assert all(row["prompt"].startswith("<s>") and row["prompt"].count("<s>") == 1 for row in rows)
    assert not any("<s>" in row["completion"] for row in rows)


def test_errors(dataset, tokenizer):
    with pytest.raises(ValueError, match=r"items with the columns .* but \['title'\] are missing from \['item_id'"):
        build_title_rows(dataset.items.remove_columns("title"), tokenizer)
    unknown = Dataset.from_dict({"item_id": ["axe"], "title": ["sharp axe"]})
    with pytest.raises(KeyError, match="Item 'axe' is not among the 8 items"):
        build_title_rows(unknown, tokenizer)


@needs_data
def test_industrial_counts(backbone_dir):
    dataset = load_minionerec(INDUSTRIAL)
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index)
    assert build_title_rows(dataset.items, tokenizer).num_rows == 2 * 3_686
    # 40 titles are not the first of their wording, and no row is lost for it.
    assert len(set(dataset.items["title"])) < 3_686
