"""A plain checkpoint: equal logits and ids, nothing of ours in it, and lists from which decoding is constrained."""

import json
import logging
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from tsrec_hf import SIDIndex, TSRecForCausalLM, TSRecTokenizer, export_backbone
from tsrec_hf.hub import load_or_start_recommender
from tsrec_hf.models import PromptBuilder


TEXTS = ["like<a_0><b_1><c_0> hammer: bread", "Items chosen in order:<a_1><b_2><c_1>"]


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("llama", {"tied": True, "add_bos": True}),
        ("llama", {"tied": False, "padded_rows": 9}),
        ("qwen2", {"tied": True}),
        ("gpt2", {"tied": False}),
        ("gemma3", {"tied": True}),
    ],
)
def test_logits_and_ids_are_identical(make_recommender, tmp_path, kind, kwargs):
    model, tokenizer = make_recommender(kind, **kwargs)
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert type(plain) is type(model.backbone)
    plain_tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in [*TEXTS, PromptBuilder(tokenizer).sequence_prompt(["hammer", "saw"])]:
        for special in (True, False):
            ids = tokenizer.encode(text, add_special_tokens=special)
            assert plain_tokenizer.encode(text, add_special_tokens=special) == ids
        inputs = torch.tensor([ids])
        with torch.no_grad():
            assert torch.equal(plain(inputs).logits, model(inputs).logits)
        assert plain_tokenizer.decode(ids) == tokenizer.decode(ids)
    tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert tied is kwargs["tied"]


def test_the_folder_has_no_custom_code(model, tokenizer, tmp_path):
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "items.jsonl", "model.safetensors", "sids.txt",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for path in folder.glob("*.json"):
        assert "auto_map" not in path.read_text() and "TSRec" not in path.read_text()
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    # Neither of the two was asked to trust code.
    assert type(AutoModelForCausalLM.from_pretrained(folder)).__module__.startswith("transformers.")
    assert type(AutoTokenizer.from_pretrained(folder)).__module__.startswith("transformers.")


def test_sids_and_items(model, tokenizer, tmp_path):
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    sids = (folder / "sids.txt").read_text().splitlines()
    index = tokenizer.sid_index
    assert sids == sorted({index.sid_of(item) for item in index.item_ids}) and len(sids) == index.trie.num_leaves == 7
    items = [json.loads(line) for line in (folder / "items.jsonl").open()]
    assert items[1] == {"item_id": "nail", "sid": "<a_0><b_1><c_0>", "title": "steel nail"}
    assert [item["item_id"] for item in items] == list(index.item_ids)
    assert all(index.sid_of(item["item_id"]) == item["sid"] for item in items)


def test_a_backbones_own_sampling_does_not_travel(model, tokenizer, tmp_path):
    model.generation_config.update(do_sample=True, temperature=0.6, top_k=20, eos_token_id=[2, 3])
    config = GenerationConfig.from_pretrained(export_backbone(model, tmp_path / "plain", tokenizer))
    assert config.do_sample is False and config.max_new_tokens == 3 and config.eos_token_id == [2, 3]
    assert config.temperature is None and config.top_k is None


def test_older_readers_find_the_rotary_base(make_recommender, tmp_path):
    model, tokenizer = make_recommender("llama")
    rope = {"rope_theta": 123456.0, "rope_type": "linear", "factor": 2.0}
    model.backbone.config.rope_parameters = dict(rope)
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    written = json.loads((folder / "config.json").read_text())
    assert written["rope_theta"] == 123456.0 and written["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    read = AutoConfig.from_pretrained(folder).rope_parameters
    assert {name: read[name] for name in rope} == rope


def vllm_stand_in(monkeypatch, model, tokenizer):
    """
    Modules named as vLLM's, with what the snippet uses of them; its search is ours. Returns what was asked.

    What vLLM 0.33 refuses is refused here as well: beam search under a grammar knows no backend "auto", its default.
    """
    asked = {}

    class LLM:
        def __init__(self, model, max_logprobs, structured_outputs_config=None):
            asked.update(folder=model, max_logprobs=max_logprobs)
            self.backend = (structured_outputs_config or {}).get("backend", "auto")

        def beam_search(self, prompts, params):
            if self.backend not in ("xgrammar", "guidance", "outlines", "lm-format-enforcer"):
                raise ValueError(f"Unsupported structured output backend: {self.backend}")
            asked.update(prompts=prompts, **vars(params))
            beams = []
            for history, prompt in zip(asked["histories"], prompts):
                found = model.recommend(tokenizer, [history], top_k=8)[0]
                sids = dict.fromkeys((item.sid, item.score) for item in found)
                ids = prompt["prompt_token_ids"]
                sequences = [
                    SimpleNamespace(tokens=ids + tokenizer.encode(sid, add_special_tokens=False), cum_logprob=score)
                    for sid, score in sids
                ]
                broken = SimpleNamespace(tokens=ids + [5, 6, 7], cum_logprob=-99.0)  # not spelled with SID tokens
                beams.append(SimpleNamespace(sequences=[*sequences, broken]))
            return beams

    vllm, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    vllm.LLM, vllm.SamplingParams = LLM, SimpleNamespace
    params.BeamSearchParams = params.StructuredOutputsParams = SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return asked


def test_the_vllm_snippets_ask_for_what_the_index_allows(model, tokenizer, tmp_path, monkeypatch, capsys):
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    text = (folder / "README.md").read_text()
    search, sampling, *_ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    asked = vllm_stand_in(monkeypatch, model, tokenizer)
    asked["histories"] = [["hammer", "nail"]]
    monkeypatch.setattr(sys, "argv", ["script.py", str(folder)])
    names = {}
    exec(search, names)
    index = tokenizer.sid_index
    assert asked["folder"] == str(folder) and asked["max_logprobs"] == 100
    sids = sorted({index.sid_of(item) for item in index.item_ids})
    # Not `choice`, which older releases rewrite for sampling alone.
    assert asked["structured_outputs"].grammar == "root ::= " + " | ".join(f'"{sid}"' for sid in sids)
    assert (asked["beam_width"], asked["max_tokens"], asked["length_penalty"]) == (50, 3, 0.0)
    prompts = PromptBuilder(tokenizer)
    assert [p["prompt_token_ids"] for p in asked["prompts"]] == [prompts.sequence_prompt_ids(["hammer", "nail"])]
    # What the snippet prints is what `recommend` finds, titles and items of shared SIDs included.
    printed = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    [expected] = model.recommend(tokenizer, [["hammer", "nail"]], top_k=8)
    titles = dict(zip(index.item_ids, index.titles))
    assert [row[1] for row in printed] == [item.item_id for item in expected]
    assert [float(row[0]) for row in printed] == pytest.approx([item.score for item in expected], abs=1e-3)
    assert [" ".join(row[2:]) for row in printed] == [titles[item.item_id] for item in expected]
    exec(sampling, names)
    params = names["params"]
    assert params.allowed_token_ids == sorted(token for level in tokenizer.sid_token_ids for token in level)
    assert params.structured_outputs.choice == sids


def test_sampling_names_no_more_tokens_than_vllm_takes(make_recommender, tmp_path, monkeypatch):
    index = SIDIndex([str(item) for item in range(1100)], [[item, 0] for item in range(1100)])
    model, tokenizer = make_recommender(index=index, semantics=None)
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    sampling = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)[1]
    vllm_stand_in(monkeypatch, model, tokenizer)
    from vllm.sampling_params import StructuredOutputsParams

    sids = (folder / "sids.txt").read_text().splitlines()
    names = {"sids": sids, "tokenizer": tokenizer, "StructuredOutputsParams": StructuredOutputsParams}
    exec(sampling, names)
    assert len(names["sid_tokens"]) == 1101 and names["params"].allowed_token_ids is None
    assert names["params"].structured_outputs.choice == sids


def test_the_grammar_of_llama_cpp_holds_the_same_list(model, tokenizer, tmp_path, monkeypatch):
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(folder)
    exec(next(block for block in blocks if "gbnf" in block), {})
    grammar = (folder / "sids.gbnf").read_text()
    assert grammar.startswith("root ::= ")
    answers = [re.findall(r"<\[(\d+)\]>", rule) for rule in grammar.split("|")]
    spelled = ["".join(tokenizer.convert_ids_to_tokens(list(map(int, answer)))) for answer in answers]
    assert spelled == (folder / "sids.txt").read_text().splitlines()


class TestErrors:
    def test_the_tokenizer_is_read_from_the_checkpoint(self, model, tokenizer, tmp_path):
        with pytest.raises(ValueError, match="Expected `tokenizer`, since this model was made in memory"):
            export_backbone(model, tmp_path / "plain")
        model.save_pretrained(tmp_path / "ours"), tokenizer.save_pretrained(tmp_path / "ours")
        loaded = TSRecForCausalLM.from_pretrained(tmp_path / "ours")
        assert (export_backbone(loaded, tmp_path / "plain") / "sids.txt").is_file()

    def test_a_recommender_is_not_overwritten(self, model, tokenizer, tmp_path):
        model.save_pretrained(tmp_path)
        before = (tmp_path / "config.json").read_text()
        with pytest.raises(ValueError, match="holds a recommender, which would be overwritten"):
            export_backbone(model, tmp_path, tokenizer)
        assert (tmp_path / "config.json").read_text() == before

    def test_another_model_or_catalogue(self, model, tokenizer, tmp_path):
        with pytest.raises(TypeError, match="Expected a `TSRecForCausalLM`, but found `LlamaForCausalLM`"):
            export_backbone(model.backbone, tmp_path / "plain", tokenizer)
        tokenizer._sid_index = SIDIndex(["1"], [[0, 0, 0]])
        with pytest.raises(ValueError, match="belongs to the SID index"):
            export_backbone(model, tmp_path / "plain", tokenizer)
        assert not (tmp_path / "plain").exists()

    @pytest.mark.parametrize("kind", [{"load_in_4bit": True}, {"load_in_8bit": True}])
    def test_quantised_weights(self, model, tokenizer, tmp_path, kind):
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
        model.save_pretrained(tmp_path / "sft")
        quantised = TSRecForCausalLM.from_pretrained(
            tmp_path / "sft", quantization_config=BitsAndBytesConfig(**kind), dtype=torch.float32
        )
        with pytest.raises(ValueError, match="as they were trained, but found quantised.*load_recommender"):
            export_backbone(quantised, tmp_path / "plain", tokenizer)
        assert not (tmp_path / "plain").exists()

    def test_adapters_are_merged_first(self, model, tokenizer, tmp_path):
        from peft import LoraConfig, get_peft_model

        adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        with pytest.raises(TypeError, match="merge_and_unload"):
            export_backbone(adapted, tmp_path / "plain", tokenizer)
        merged = adapted.merge_and_unload()
        folder = export_backbone(merged, tmp_path / "plain", tokenizer)
        inputs = torch.tensor([tokenizer.encode(TEXTS[0])])
        assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(inputs).logits, merged(inputs).logits)

    def test_adapters_inside_are_found(self, model, tokenizer, tmp_path):
        """Not wrapped, as `from_pretrained` of an adapter leaves them: the export would lose their weights."""
        from peft import LoraConfig, get_peft_model

        model.save_pretrained(tmp_path / "base")
        base = TSRecForCausalLM.from_pretrained(tmp_path / "base")
        get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
        for adapted in (TSRecForCausalLM.from_pretrained(tmp_path / "adapter"), base):
            with pytest.raises(TypeError, match="adapters inside.*q_proj.*load_recommender"):
                export_backbone(adapted, tmp_path / "plain", tokenizer)
        assert not (tmp_path / "plain").exists()

    def test_a_tokenizer_that_reads_otherwise_is_told(self, make_recommender, tmp_path, caplog):
        """Beside a configuration of type qwen2, transformers reads this word-level tokenizer as Qwen2's own."""
        model, tokenizer = make_recommender("qwen2")
        with caplog.at_level(logging.WARNING):
            folder = export_backbone(model, tmp_path / "plain", tokenizer)
        other = AutoTokenizer.from_pretrained(folder).encode(TEXTS[1]) != tokenizer.encode(TEXTS[1])
        assert other is ("encodes otherwise" in caplog.text)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("gpt2", False)])
def test_a_checkpoint_that_spells_sids_already_is_taken_over(make_recommender, tmp_path, kind, tied, special):
    """As others' recommenders are: a plain model whose vocabulary holds the SID tokens, at times as special ones."""
    model, tokenizer = make_recommender(kind, tied=tied)
    expected = model.recommend(tokenizer, [["hammer", "apple"]], top_k=8)
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    if special:
        plain = AutoTokenizer.from_pretrained(folder)
        plain.add_special_tokens({"additional_special_tokens": sum(tokenizer.sid_index.tokens, [])})
        plain.save_pretrained(folder)
    taken = TSRecTokenizer.from_backbone(folder, tokenizer.sid_index, existing_tokens="keep")
    assert taken.sid_token_ids == tokenizer.sid_token_ids and len(taken.kept_token_ids) == 7
    text = "like<a_0><b_1><c_0> hammer"
    ids = taken.encode(text, add_special_tokens=False)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert taken.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)
    other = TSRecForCausalLM.from_backbone(folder, taken)
    assert other.recommend(taken, [["hammer", "apple"]], top_k=8) == expected
    assert other.config.sid_initialization == {"pooling": "kept"}
    # Saved, it is a checkpoint like any other.
    other.save_pretrained(tmp_path / "ours")
    taken.save_pretrained(tmp_path / "ours")
    loaded, saved = (one.from_pretrained(tmp_path / "ours") for one in (TSRecForCausalLM, TSRecTokenizer))
    assert loaded.recommend(saved, [["hammer", "apple"]], top_k=8) == expected
    assert saved.kept_token_ids == taken.kept_token_ids


def test_tokens_that_are_missing_are_added_to_those_taken_over(model, tokenizer, semantics, tmp_path):
    folder = export_backbone(model, tmp_path / "plain", tokenizer)
    grown = SIDIndex(["x", "y"], [[0, 0, 0], [2, 1, 1]])
    taken = TSRecTokenizer.from_backbone(folder, grown, existing_tokens="keep")
    [first, *_] = taken.sid_token_ids
    assert first[:2] == tokenizer.sid_token_ids[0] and first[2] not in taken.kept_token_ids
    rows = model.get_input_embeddings().weight
    own = TSRecForCausalLM.from_backbone(folder, taken).get_input_embeddings().weight
    assert torch.equal(own[taken.kept_token_ids], rows[taken.kept_token_ids])
    with pytest.raises(ValueError, match="no `semantics`: 6 SID tokens were taken over"):
        TSRecForCausalLM.from_backbone(folder, taken, semantics)
    with pytest.raises(ValueError, match="'error' or 'keep', but found 'yes'"):
        TSRecTokenizer.from_backbone(folder, grown, existing_tokens="yes")
    loaded, _ = load_or_start_recommender(folder, grown, semantics, {}, existing_tokens="keep")
    assert torch.equal(loaded.get_input_embeddings().weight, own)
