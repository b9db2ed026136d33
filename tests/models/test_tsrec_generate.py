import pytest
import torch
from transformers import AutoModelForCausalLM

from tsrec_hf import PromptBuilder, SIDIndex, TSRecTokenizer, tsrec_generate
from tsrec_hf.models import custom_generate_tsrec


HISTORIES = [["hammer", "nail", "saw"], ["apple"]]


@pytest.fixture
def inputs(tokenizer):
    prompts = [PromptBuilder(tokenizer).sequence_prompt(history) for history in HISTORIES]
    return tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")


def constrained(model, tokenizer, inputs, num_beams, num_return_sequences):
    """The same by `generate` with a dictionary of prefixes."""
    width = inputs.input_ids.shape[1]
    children: dict[tuple, set] = {}
    for ids in tokenizer.encode_sids(tokenizer.sid_index.item_ids):
        for level, token_id in enumerate(ids):
            children.setdefault(tuple(ids[:level]), set()).add(token_id)
    return model.generate(
        **inputs,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        length_penalty=0.0,
        do_sample=False,
        max_new_tokens=3,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        prefix_allowed_tokens_fn=lambda _, ids: sorted(children[tuple(ids[width:].tolist())]),
        return_dict_in_generate=True,
        output_scores=True,
    )


def test_sequences_are_those_of_constrained_generate(model, tokenizer, inputs) -> None:
    expected = constrained(model, tokenizer, inputs, num_beams=5, num_return_sequences=4)
    settings = {"sid_tokenizer": tokenizer, "num_sids": 4, "num_sid_beams": 5}
    direct = tsrec_generate(model, **inputs, **settings)
    assert torch.equal(direct, expected.sequences)
    # By the documented door of `generate`, too, with its ways to ask for scores.
    assert torch.equal(model.generate(**inputs, custom_generate=tsrec_generate, **settings), expected.sequences)
    output = model.generate(**inputs, custom_generate=tsrec_generate, return_dict_in_generate=True, **settings)
    assert torch.equal(output.sequences, expected.sequences)
    torch.testing.assert_close(output.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=0)


def test_a_plain_language_model_finds_the_same(model, tokenizer, inputs, backbone_dir) -> None:
    settings = {"sid_tokenizer": tokenizer, "num_sids": 4, "num_sid_beams": 5}
    expected = tsrec_generate(model, **inputs, **settings)
    assert torch.equal(tsrec_generate(model.backbone, **inputs, **settings), expected)
    # As `custom_generate` calls it.
    assert torch.equal(custom_generate_tsrec.generate(model.backbone, **inputs, **settings), expected)
    with pytest.raises(ValueError, match="Expected prompts as `input_ids`"):
        custom_generate_tsrec.generate(model.backbone, **settings)
    with pytest.raises(ValueError, match="with rows for the SID tokens"):
        tsrec_generate(AutoModelForCausalLM.from_pretrained(backbone_dir), **inputs, **settings)


def test_the_catalogue_is_the_limit(model, tokenizer, inputs) -> None:
    sequences = tsrec_generate(model, **inputs, sid_tokenizer=tokenizer, num_sids=100)
    assert len(sequences) == 2 * tokenizer.sid_index.trie.num_leaves
    output = tsrec_generate(
        model, **inputs, sid_tokenizer=tokenizer, num_sids=100, sid_scoring="catalogue", return_dict_in_generate=True
    )
    totals = output.sequences_scores.view(2, -1).exp().sum(-1)
    torch.testing.assert_close(totals, torch.ones(2), atol=1e-5, rtol=0)


def test_errors(model, tokenizer, inputs, backbone_dir) -> None:
    with pytest.raises(ValueError, match="Expected `sid_tokenizer`"):
        model.generate(**inputs, custom_generate=tsrec_generate)
    other = TSRecTokenizer.from_backbone(backbone_dir, SIDIndex(["a"], [[0, 0, 0]]))
    with pytest.raises(ValueError, match="belongs to the SID index"):
        tsrec_generate(model, **inputs, sid_tokenizer=other)
    with pytest.raises(ValueError, match="`num_sids` of at least 1"):
        tsrec_generate(model, **inputs, sid_tokenizer=tokenizer, num_sids=0)
    for beams in (0, 2):
        with pytest.raises(ValueError, match=f"`num_sid_beams` of at least 3, the SIDs to return, but found {beams}"):
            tsrec_generate(model, **inputs, sid_tokenizer=tokenizer, num_sids=3, num_sid_beams=beams)
    with pytest.raises(ValueError, match="Expected `attention_mask`"):
        tsrec_generate(model, inputs.input_ids, sid_tokenizer=tokenizer)
    right = {name: value.flip(1) for name, value in inputs.items()}
    with pytest.raises(ValueError, match="padded on the left"):
        tsrec_generate(model, **right, sid_tokenizer=tokenizer)


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 3}])
def test_beams_of_a_generation_config_repeat_no_prompts(model, tokenizer, inputs, settings) -> None:
    expected = tsrec_generate(model, **inputs, sid_tokenizer=tokenizer, num_sids=2)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    found = model.generate(**inputs, custom_generate=tsrec_generate, sid_tokenizer=tokenizer, num_sids=2)
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="Pass `num_sid_beams=5`"):
        model.generate(**inputs, custom_generate=tsrec_generate, sid_tokenizer=tokenizer, num_beams=5)
