"""Weights that a device map keeps on a disk: the same lists, the same checkpoint, and no training."""

import pytest

from tsrec_hf.data import build_sequence_rows
from tsrec_hf.hub import export_backbone
from tsrec_hf.models import TSRecForCausalLM
from tsrec_hf.trainers import TSRecSFTConfig, TSRecSFTTrainer


HISTORIES = [["hammer", "nail"], ["apple"]]
PARTS = ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")


@pytest.fixture
def offloaded(make_recommender, tmp_path):
    """Loads a recommender with some parts on a disk; all of it by default."""
    model, _ = make_recommender("llama", tied=False)
    model.save_pretrained(tmp_path / "saved")

    def load(*parts):
        where = {f"backbone.{part}": "disk" if part in parts else "cpu" for part in PARTS} if parts else {"": "disk"}
        return TSRecForCausalLM.from_pretrained(
            tmp_path / "saved", device_map=where, offload_folder=str(tmp_path / "offloaded")
        )

    return load


@pytest.mark.parametrize("scoring", ["catalogue", "vocabulary"])
@pytest.mark.parametrize("parts", [(), ("model.layers",), ("model.embed_tokens", "lm_head")], ids="-".join)
def test_lists_are_those_of_weights_in_memory(make_recommender, offloaded, parts, scoring) -> None:
    model, tokenizer = make_recommender("llama", tied=False)
    expected = model.recommend(tokenizer, HISTORIES, top_k=6, scoring=scoring)
    found = offloaded(*parts).recommend(tokenizer, HISTORIES, top_k=6, scoring=scoring)
    for row, ours in zip(found, expected, strict=True):
        assert [item.item_id for item in row] == [item.item_id for item in ours]
        assert [item.score for item in row] == pytest.approx([item.score for item in ours], abs=1e-4)


def test_they_are_saved_whole(make_recommender, offloaded, tmp_path) -> None:
    model, tokenizer = make_recommender("llama", tied=False)
    offloaded("model.layers").save_pretrained(tmp_path / "again")
    again = TSRecForCausalLM.from_pretrained(tmp_path / "again")
    assert again.recommend(tokenizer, HISTORIES, top_k=6) == model.recommend(tokenizer, HISTORIES, top_k=6)


def test_they_are_neither_trained_nor_exported(tokenizer, dataset, offloaded, tmp_path) -> None:
    args = TSRecSFTConfig(str(tmp_path / "out"), max_steps=1, report_to="none", bf16=False, use_cpu=True)
    rows = build_sequence_rows(dataset.train, tokenizer)
    with pytest.raises(ValueError, match="weights in memory.* are offloaded .* Load the recommender without `device_"):
        TSRecSFTTrainer(offloaded("model.layers"), args, train_dataset=rows, processing_class=tokenizer)
    with pytest.raises(ValueError, match="Expected weights in memory, but found some that a `device_map`"):
        export_backbone(offloaded("model.layers"), tmp_path / "plain", tokenizer)
    assert not (tmp_path / "plain").exists()
