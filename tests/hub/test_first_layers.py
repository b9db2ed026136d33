"""A backbone cut to its first layers: the same layers, a whole checkpoint, and any kind of backbone."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tsrec_hf import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.hub import save_first_layers


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("gpt2", True), ("gemma3", True)])
def test_the_first_layer_is_kept_as_it_was(save_backbone, tmp_path, kind, tied) -> None:
    whole = AutoModelForCausalLM.from_pretrained(save_backbone(tmp_path / "whole", kind, tied=tied))
    folder = save_first_layers(tmp_path / "whole", tmp_path / "small", 1)
    small = AutoModelForCausalLM.from_pretrained(folder)
    assert (whole.config.num_hidden_layers, small.config.num_hidden_layers) == (2, 1)
    assert len(getattr(small.config, "layer_types", None) or [None]) == 1
    weights = whole.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in small.state_dict().items())
    assert any("layers.0" in name or "h.0" in name for name in small.state_dict())


def test_all_layers_can_be_kept(backbone_dir, tmp_path) -> None:
    save_first_layers(backbone_dir, tmp_path / "copy")
    inputs = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(f)(inputs).logits for f in (backbone_dir, tmp_path / "copy")]
    assert torch.equal(*logits)
    encoded = [AutoTokenizer.from_pretrained(f)("steel hammer").input_ids for f in (backbone_dir, tmp_path / "copy")]
    assert encoded[0] == encoded[1]


def test_a_recommender_starts_from_it(backbone_dir, sid_index, semantics, tmp_path) -> None:
    folder = save_first_layers(backbone_dir, tmp_path / "small", 1)
    tokenizer = TSRecTokenizer.from_backbone(folder, sid_index)
    model = TSRecForCausalLM.from_backbone(folder, tokenizer, semantics)
    assert len(model.recommend(tokenizer, [["hammer"]], top_k=2, num_beams=5)[0]) == 2


@pytest.mark.parametrize("num_layers", [0, 3])
def test_layers_that_are_not_there(backbone_dir, tmp_path, num_layers) -> None:
    with pytest.raises(ValueError, match=f"Expected 1 to 2 layers to keep.*found {num_layers}.*`None` to keep all"):
        save_first_layers(backbone_dir, tmp_path / "small", num_layers)
    assert not (tmp_path / "small").exists()
