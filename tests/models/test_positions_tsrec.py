"""Sequences beyond the positions that a backbone has learned."""

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

from tsrec_hf import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.positions_tsrec import learned_positions


MOST = 256  # positions of the tiny backbones


@pytest.fixture
def make(save_backbone, sid_index, tmp_path):
    def make(kind):
        folder = save_backbone(tmp_path / kind, kind)
        tokenizer = TSRecTokenizer.from_backbone(f"{folder}/tokenizer", sid_index, max_history=1000)
        return TSRecForCausalLM.from_backbone(folder, tokenizer), tokenizer

    return make


@pytest.mark.parametrize("options", [{}, {"search": "exact"}, {"scoring": "catalogue"}, {"num_beams": 7}])
def test_histories_that_do_not_fit_are_named(make, options) -> None:
    model, tokenizer = make("gpt2")
    instruction = len(tokenizer("Items chosen in order:")["input_ids"])
    fitting = (MOST - instruction) // 3 - 1  # items of three tokens, and one that follows
    assert len(model.recommend(tokenizer, [["nail"] * fitting], top_k=3, **options)[0]) == 3
    with pytest.raises(ValueError, match=rf"at most {MOST} tokens, the positions that the backbone has learned"):
        model.recommend(tokenizer, [["nail"], ["nail"] * (fitting + 1)], top_k=3, **options)


def test_training_rows_that_do_not_fit_are_named(make) -> None:
    model, _ = make("gpt2")
    rows = torch.ones(1, MOST + 1, dtype=torch.long)
    model(rows[:, 1:])
    with pytest.raises(ValueError, match=f"at most {MOST} tokens.* but found {MOST + 1} "):
        model(rows)
    # Packed rows begin at 0 anew.
    model(rows, position_ids=torch.arange(MOST + 1).unsqueeze(0) % 100)


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_other_backbones_have_no_end(make, kind) -> None:
    model, tokenizer = make(kind)
    assert model.recommend(tokenizer, [["nail"] * 400], top_k=1)


def test_generate_names_what_does_not_fit(make) -> None:
    model, _ = make("gpt2")
    model.generate(torch.ones(1, MOST - 4, dtype=torch.long), max_new_tokens=4, min_new_tokens=4)
    with pytest.raises(ValueError, match=f"at most {MOST} tokens"):
        model.generate(torch.ones(1, MOST + 4, dtype=torch.long), max_new_tokens=1)
    with pytest.raises(ValueError, match=f"at most {MOST} tokens"):
        model.generate(torch.ones(1, MOST - 2, dtype=torch.long), max_new_tokens=8, min_new_tokens=8)


def test_a_dynamic_length_can_be_exported(make) -> None:
    model, _ = make("llama")

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(input_ids=ids, use_cache=False).logits

    length = torch.export.Dim("length", min=2, max=1000)
    program = torch.export.export(
        Logits(), (torch.ones(2, 20, dtype=torch.long),), dynamic_shapes=({1: length},), strict=False
    )
    assert program.module()(torch.ones(2, 600, dtype=torch.long)).shape[1] == 600


def test_tables_with_further_rows_count() -> None:
    config = OPTConfig(
        vocab_size=64, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=16,
        max_position_embeddings=32,
    )  # fmt: skip
    assert learned_positions(AutoModelForCausalLM.from_config(config)) == 32
