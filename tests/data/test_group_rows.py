import pytest
from datasets import Dataset

from tsrec_hf.data import PromptBuilder, build_grpo_rows
from tsrec_hf.models import TSRecTokenizer


def test_rows_are_prompts_and_targets(backbone_dir, sid_index) -> None:
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, sid_index, max_history=2)
    histories = [["hammer"], ["hammer"], ["apple", "pear", "saw"]]
    rows = build_grpo_rows(Dataset.from_dict({"history": histories, "target": ["nail", "saw", "bread"]}), tokenizer)
    prompts = PromptBuilder(tokenizer)
    assert rows["prompt"][:] == [prompts.sequence_prompt(h) for h in (["hammer"], ["hammer"], ["pear", "saw"])]
    # Equal prompts keep their own targets.
    assert rows["target"][:] == ["nail", "saw", "bread"]


def test_unknown_items_are_named(tokenizer) -> None:
    for row in ({"history": [["spoon"]], "target": ["nail"]}, {"history": [["nail"]], "target": ["spoon"]}):
        with pytest.raises(KeyError, match="'spoon' is not among"):
            build_grpo_rows(Dataset.from_dict(row), tokenizer)


def test_further_columns_are_kept(tokenizer) -> None:
    interactions = Dataset.from_dict(
        {"history": [["hammer"], ["nail", "saw"]], "target": ["nail", "bread"], "price": [1, 2], "tags": [["a"], []]}
    )
    for rows in (interactions, interactions.select([1]), interactions.with_format("numpy"), interactions.select([])):
        built = build_grpo_rows(rows, tokenizer, columns=["tags", "price", "history", "target"])
        assert built.column_names == ["prompt", "target", "tags", "price", "history"]
        plain = rows.with_format(None)
        assert all(built[name][:] == plain[name][:] for name in ("target", "tags", "price", "history"))
        assert built.features["price"] == interactions.features["price"]
    with pytest.raises(KeyError, match="columns \\['cost'\\] among those of the interactions"):
        build_grpo_rows(interactions, tokenizer, columns=["price", "cost"])
    with pytest.raises(ValueError, match='found "prompt", which is built here'):
        build_grpo_rows(interactions.add_column("prompt", ["x", "y"]), tokenizer, columns=["prompt"])
