"""A backbone cut to its first layers and tokens: the same weights, a whole checkpoint, and any kind of backbone."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

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


@pytest.fixture
def encoded_by_bytes(save_backbone, tmp_path):
    """A tiny backbone whose tokenizer is a byte-level byte-pair encoding: an end token, 256 bytes, 20 merges."""
    folder = save_backbone(tmp_path / "whole", "llama", padded_rows=300)
    encoding = Tokenizer(models.BPE())
    encoding.pre_tokenizer, encoding.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=277, special_tokens=["<end>"], initial_alphabet=alphabet)
    encoding.train_from_iterator(["a steel hammer and a steel nail", "another hammer, another nail"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=encoding, eos_token="<end>")
    assert len(tokenizer) == 277
    tokenizer.save_pretrained(folder)
    return folder


TEXT = "Another hämmer\nof steel<end>"


def test_the_first_tokens_write_every_text(encoded_by_bytes, tmp_path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(encoded_by_bytes)
    folder = save_first_layers(encoded_by_bytes, tmp_path / "small", 1, num_tokens=262)
    small, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == small.config.vocab_size == 262 and tokenizer.eos_token == "<end>"
    rows, before = small.get_input_embeddings().weight, whole.get_input_embeddings().weight
    assert torch.equal(rows, before[:262]) and small.get_output_embeddings().weight is rows
    ids = tokenizer(TEXT).input_ids
    assert tokenizer.decode(ids) == TEXT and max(ids) < 262
    # The encoding of the first merges alone: a token that is left means what it meant.
    long = AutoTokenizer.from_pretrained(encoded_by_bytes)
    assert len(long(TEXT).input_ids) < len(ids)
    assert tokenizer.convert_ids_to_tokens(range(262)) == long.convert_ids_to_tokens(range(262))


def test_a_recommender_starts_from_the_first_tokens(encoded_by_bytes, sid_index, semantics, tmp_path) -> None:
    folder = save_first_layers(encoded_by_bytes, tmp_path / "small", num_tokens=260)
    tokenizer = TSRecTokenizer.from_backbone(folder, sid_index)
    model = TSRecForCausalLM.from_backbone(folder, tokenizer, semantics)
    assert model.config.get_text_config().vocab_size == 260 + 7
    assert len(model.recommend(tokenizer, [["hammer"]], top_k=2, num_beams=5)[0]) == 2


@pytest.mark.parametrize("num_tokens", [0, 256, 278])
def test_tokens_that_have_to_stay(encoded_by_bytes, tmp_path, num_tokens) -> None:
    with pytest.raises(ValueError, match=f"`num_tokens` of 257, which holds every.*to 277, but found {num_tokens}"):
        save_first_layers(encoded_by_bytes, tmp_path / "small", num_tokens=num_tokens)
    assert not (tmp_path / "small").exists()


def test_an_encoding_of_another_kind(backbone_dir, tmp_path) -> None:
    with pytest.raises(ValueError, match="byte-level byte-pair encoding.*of another kind. Leave `num_tokens` out"):
        save_first_layers(backbone_dir, tmp_path / "small", num_tokens=20)


def test_a_checkpoint_without_a_weight_is_refused(backbone_dir, tmp_path, monkeypatch) -> None:
    state_dict = torch.nn.Module.state_dict

    def without_one(self, *args, **kwargs):
        weights = state_dict(self, *args, **kwargs)
        return {name: weight for name, weight in weights.items() if not name.endswith("0.mlp.up_proj.weight")}

    monkeypatch.setattr(torch.nn.Module, "state_dict", without_one)
    with pytest.raises(ValueError, match="all weights of its first 1 layers, but .*up_proj.weight.* are missing"):
        save_first_layers(backbone_dir, tmp_path / "small", 1)


def test_it_does_not_say_that_it_is_quantised(backbone_dir, tmp_path, monkeypatch) -> None:
    load = AutoModelForCausalLM.from_pretrained

    def as_from_a_quantised_file(*args, **kwargs):
        model = load(*args, **kwargs)
        model.config.quantization_config = {"quant_method": "gguf"}
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", as_from_a_quantised_file)
    folder = save_first_layers(backbone_dir, tmp_path / "small", 1)
    assert "quantization_config" not in (folder / "config.json").read_text()
