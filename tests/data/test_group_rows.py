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
