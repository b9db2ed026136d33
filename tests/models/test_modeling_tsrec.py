import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PhiConfig

from tsrec_hf import TSRecConfig, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models import PROMPT_VERSION, PromptBuilder, Recommendation, SIDIndex, SIDSearch, recommending_tsrec
from tsrec_hf.semantics import TokenSemantics


KINDS = ["qwen2", "llama", "gpt2", "gemma3", "mistral"]
EVERY_BACKBONE = [(kind, tied) for kind in KINDS for tied in (True, False)]
HISTORIES = [["hammer", "nail"], ["apple"], ["bread", "hammer", "nail", "saw", "pear"]]


@pytest.fixture
def make(save_backbone, tmp_path, sid_index, semantics):
    """Makes a tiny recommender of any backbone."""

    def make_recommender(kind="llama", tied=True, semantics=semantics, **kwargs):
        folder = save_backbone(tmp_path / f"{kind}-{tied}", kind, tied, **kwargs)
        tokenizer = TSRecTokenizer.from_backbone(f"{folder}/tokenizer", sid_index)
        return TSRecForCausalLM.from_backbone(folder, tokenizer, semantics), tokenizer, folder

    return make_recommender


def is_tied(model) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def assert_close(found: list[list[Recommendation]], expected: list[list[Recommendation]]) -> None:
    assert [[(r.item_id, r.sid) for r in row] for row in found] == [
        [(r.item_id, r.sid) for r in row] for row in expected
    ]
    for row, expected_row in zip(found, expected):
        assert [r.score for r in row] == pytest.approx([r.score for r in expected_row], abs=1e-5)


class TestSaveAndLoad:
    @pytest.mark.parametrize(("kind", "tied"), EVERY_BACKBONE)
    def test_bit_for_bit(self, make, tmp_path, kind, tied) -> None:
        model, tokenizer, _ = make(kind, tied)
        expected = model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8)
        model.save_pretrained(tmp_path / "saved")
        tokenizer.save_pretrained(tmp_path / "saved")
        for load_model, load_tokenizer in [
            (TSRecForCausalLM.from_pretrained, TSRecTokenizer.from_pretrained),
            (AutoModelForCausalLM.from_pretrained, AutoTokenizer.from_pretrained),
        ]:
            loaded = load_model(tmp_path / "saved")
            loaded_tokenizer = load_tokenizer(tmp_path / "saved")
            assert type(loaded) is TSRecForCausalLM and type(loaded_tokenizer) is TSRecTokenizer
            assert not loaded.training
            state, loaded_state = model.state_dict(), loaded.state_dict()
            assert list(state) == list(loaded_state)
            assert all(torch.equal(state[name], loaded_state[name]) for name in state)
            assert is_tied(loaded) is is_tied(model) is tied
            first, second = model.config.to_dict(), loaded.config.to_dict()
            # Written by `save_pretrained`, or told by where the checkpoint was read from.
            for config in (first, second, first["backbone_config"], second["backbone_config"]):
                for name in ("architectures", "_name_or_path", "transformers_version"):
                    config.pop(name, None)
            assert first == second
            assert loaded.config.prompt_version == PROMPT_VERSION
            assert loaded.config.sid_index_fingerprint == loaded_tokenizer.sid_index.fingerprint
            assert loaded_tokenizer.sid_index == tokenizer.sid_index
            assert loaded.recommend(loaded_tokenizer, HISTORIES, top_k=8, num_beams=8) == expected

    @pytest.mark.parametrize(("kind", "tied"), EVERY_BACKBONE)
    def test_a_second_generation_is_the_same_file(self, make, tmp_path, kind, tied) -> None:
        model, _, _ = make(kind, tied)
        model.save_pretrained(tmp_path / "one")
        TSRecForCausalLM.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
        one, two = (load_file(tmp_path / folder / "model.safetensors") for folder in ("one", "two"))
        assert list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)
        # A tied head is stored once.
        assert ("backbone.lm_head.weight" in one) is not tied
        configs = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("one", "two")]
        assert configs[0] == configs[1]
        assert str(tmp_path) not in json.dumps(configs)

    def test_auto_classes_know_the_type(self, make, tmp_path) -> None:
        model, tokenizer, _ = make("gpt2")
        model.save_pretrained(tmp_path / "saved")
        tokenizer.save_pretrained(tmp_path / "saved")
        config = AutoConfig.from_pretrained(tmp_path / "saved")
        assert type(config) is TSRecConfig and config.backbone_config.model_type == "gpt2"
        assert type(AutoModelForCausalLM.from_config(config)) is TSRecForCausalLM

    def test_without_the_package(self, make, tmp_path) -> None:
        folders, expected = [], {}
        for kind, tied in [("llama", True), ("gemma3", False), ("gpt2", True)]:
            model, tokenizer, _ = make(kind, tied)
            folder = tmp_path / f"saved-{kind}"
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            folders.append(str(folder))
            prompt = PromptBuilder(tokenizer).sequence_prompt(HISTORIES[0])
            inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(input_ids=inputs).logits
            expected[str(folder)] = {
                "prompt": prompt,
                "logits": logits.tolist(),
                "recommendations": [
                    [list(r) for r in row] for row in model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8)
                ],
                "items": tokenizer.sid_index.items_of("<a_0><b_1><c_0>"),
                "tied": tied,
            }
        script = tmp_path / "stranger.py"
        script.write_text(
            f"""
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsrec_hf":
            raise ImportError("tsrec_hf is not installed here")

sys.meta_path.insert(0, Blocker())

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

try:
    import tsrec_hf
    raise SystemExit("tsrec_hf can be imported")
except ImportError:
    pass

results = {{}}
for folder, facts in json.load(open("expected.json")).items():
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = tokenizer(facts["prompt"], add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    results[folder] = {{
        "prompt": facts["prompt"],
        "logits": logits.tolist(),
        "recommendations": model.recommend(tokenizer, {HISTORIES!r}, top_k=8, num_beams=8),
        "items": tokenizer.sid_index.items_of("<a_0><b_1><c_0>"),
        "tied": model.get_input_embeddings().weight is model.get_output_embeddings().weight,
    }}
assert not any(name.split(".")[0] == "tsrec_hf" for name in sys.modules)
json.dump(results, open("results.json", "w"))
"""
        )
        (tmp_path / "expected.json").write_text(json.dumps(expected))
        run = subprocess.run(
            [sys.executable, "-I", str(script)],
            cwd=tmp_path,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "HF_MODULES_CACHE": str(tmp_path / "modules"),
            },
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        # Another process may add in another order: numbers agree to the last digits of float32, all else exactly.
        results = json.loads((tmp_path / "results.json").read_text())
        assert results.keys() == expected.keys()
        for folder, facts in expected.items():
            found = results[folder]
            assert [found[name] for name in ("prompt", "items", "tied")] == [
                facts["prompt"],
                facts["items"],
                facts["tied"],
            ]
            torch.testing.assert_close(torch.tensor(found["logits"]), torch.tensor(facts["logits"]))
            for row, expected_row in zip(found["recommendations"], facts["recommendations"], strict=True):
                assert [item[:2] for item in row] == [item[:2] for item in expected_row]
                assert [item[2] for item in row] == pytest.approx([item[2] for item in expected_row], abs=1e-4)

    def test_attention_and_dtype_are_chosen_at_loading(self, make, tmp_path) -> None:
        model, tokenizer, folder = make("llama")
        model.save_pretrained(tmp_path / "saved")
        loaded = TSRecForCausalLM.from_pretrained(
            tmp_path / "saved", attn_implementation="eager", dtype=torch.bfloat16
        )
        assert loaded.backbone.config._attn_implementation == "eager" and loaded.dtype == torch.bfloat16
        made = TSRecForCausalLM.from_backbone(folder, tokenizer, attn_implementation="eager", dtype=torch.bfloat16)
        assert made.backbone.config._attn_implementation == "eager" and made.dtype == torch.bfloat16
        made.save_pretrained(tmp_path / "bf16")
        assert TSRecForCausalLM.from_pretrained(tmp_path / "bf16").dtype == torch.bfloat16

    def test_a_plain_backbone_is_no_checkpoint(self, backbone_dir) -> None:
        # Else a new Qwen2 of default size would be built in its place.
        with pytest.raises(ValueError, match="'tsrec' checkpoint, but found one of type 'llama'.*from_backbone"):
            TSRecForCausalLM.from_pretrained(backbone_dir)

    def test_rows_added_later_survive(self, make, tmp_path) -> None:
        for tied in (True, False):
            model, _, _ = make("llama", tied)
            model.resize_token_embeddings(90)
            assert is_tied(model) is tied and model.config.get_text_config().vocab_size == 90
            model.save_pretrained(tmp_path / f"resized-{tied}")
            loaded = TSRecForCausalLM.from_pretrained(tmp_path / f"resized-{tied}")
            assert is_tied(loaded) is tied
            assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)


class TestWrapper:
    @pytest.mark.parametrize(("kind", "tied"), EVERY_BACKBONE)
    def test_forward_is_the_backbones(self, make, kind, tied) -> None:
        model, _, _ = make(kind, tied)
        ids = torch.arange(4, 24).reshape(2, 10)
        mask = torch.ones_like(ids)
        mask[1, :3] = 0
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=mask, labels=ids)
            expected = model.backbone(input_ids=ids, attention_mask=mask, labels=ids)
            embedded = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask)
        assert torch.equal(found.logits, expected.logits) and found.loss == expected.loss
        torch.testing.assert_close(embedded.logits, expected.logits)
        hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(hidden, expected_hidden(model, ids, mask))

    @pytest.mark.parametrize("kind", KINDS)
    def test_generate(self, make, kind) -> None:
        model, tokenizer, _ = make(kind)
        ids = tokenizer("like hammer", add_special_tokens=False, return_tensors="pt").input_ids
        arguments = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **arguments)
        assert found.shape == (1, 8)
        assert torch.equal(
            found, model.backbone.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **arguments)
        )
        greedy = ids
        for _ in range(6):
            with torch.no_grad():
                greedy = torch.cat([greedy, model(input_ids=greedy).logits[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(found, greedy)

    def test_our_beams_are_no_setting_of_generate(self, tmp_path) -> None:
        fresh = TSRecForCausalLM(TSRecConfig(backbone_config=LlamaConfig(vocab_size=50, **SMALL)))
        assert fresh.config.recommend_num_beams == 50 and fresh.generation_config.num_beams in (None, 1)
        fresh.save_pretrained(tmp_path)
        assert TSRecForCausalLM.from_pretrained(tmp_path).generation_config.num_beams in (None, 1)

    def test_gradients_reach_every_parameter(self, make) -> None:
        model, tokenizer, _ = make("llama", tied=False)
        ids = torch.tensor([PromptBuilder(tokenizer).sequence_prompt_ids(["hammer", "nail"])])
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_default_configuration_round_trips(self, tmp_path) -> None:
        config = TSRecConfig(backbone_config=LlamaConfig(vocab_size=50, **SMALL), max_history=3, recommend_num_beams=7)
        config.save_pretrained(tmp_path)
        loaded = TSRecConfig.from_pretrained(tmp_path)
        assert (loaded.max_history, loaded.recommend_num_beams, loaded.prompt_version) == (3, 7, None)
        assert type(loaded.backbone_config) is LlamaConfig and loaded.backbone_config.hidden_size == 16
        assert loaded.get_text_config() is loaded.backbone_config
        assert loaded.tie_word_embeddings is loaded.backbone_config.tie_word_embeddings is False
        assert TSRecConfig().backbone_config.model_type == "qwen2"


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def expected_hidden(model, ids, mask) -> torch.Tensor:
    decoder = model.backbone.transformer if model.config.backbone_config.model_type == "gpt2" else model.backbone.model
    return decoder(input_ids=ids, attention_mask=mask).last_hidden_state


class TestFromBackbone:
    @pytest.mark.parametrize(("kind", "tied"), EVERY_BACKBONE)
    @pytest.mark.parametrize("padded_rows", [0, 3, 20])
    def test_without_semantics_rows_are_the_resize_default(self, make, kind, tied, padded_rows) -> None:
        model, tokenizer, folder = make(kind, tied, semantics=None, padded_rows=padded_rows)
        base = AutoModelForCausalLM.from_pretrained(folder)
        first = tokenizer.sid_token_ids[0][0]
        # 7 SID tokens; the backbone's 3 or 20 rows of padding take some of them, or all.
        rows = max(first + 7, first + padded_rows)
        matrices = [model.get_input_embeddings(), model.get_output_embeddings()]
        for matrix, base_matrix in zip(matrices, [base.get_input_embeddings(), base.get_output_embeddings()]):
            assert matrix.weight.shape[0] == rows == model.config.backbone_config.vocab_size
            assert torch.equal(matrix.weight[:first], base_matrix.weight[:first])
            mean = base_matrix.weight[:first].mean(dim=0)
            torch.testing.assert_close(matrix.weight[first : first + 7], mean.expand(7, -1))
            if padded_rows == 20:
                assert torch.equal(matrix.weight[first + 7 :], base_matrix.weight[first + 7 :])
        assert is_tied(model) is tied
        assert model.config.sid_initialization == {"pooling": "resize"}

    def test_rows_are_those_of_resize_token_embeddings(self, make) -> None:
        model, tokenizer, folder = make("llama", tied=False, semantics=None)
        base = AutoModelForCausalLM.from_pretrained(folder)
        base.resize_token_embeddings(len(tokenizer))  # draws around the mean, with next to no variance
        for name in ("get_input_embeddings", "get_output_embeddings"):
            torch.testing.assert_close(getattr(model, name)().weight, getattr(base, name)().weight, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("tied", [True, False])
    def test_with_semantics_old_rows_stay(self, make, tied) -> None:
        for padded_rows in (0, 3, 20):
            model, tokenizer, folder = make("qwen2", tied, padded_rows=padded_rows)
            base = AutoModelForCausalLM.from_pretrained(folder)
            first = tokenizer.sid_token_ids[0][0]
            rows = model.get_input_embeddings().weight[first : first + 7]
            assert torch.equal(model.get_input_embeddings().weight[:first], base.get_input_embeddings().weight[:first])
            old = base.get_input_embeddings().weight[first:]
            assert not any(torch.equal(row, padding) for row in rows for padding in old)
            assert is_tied(model) is tied

    def test_a_head_with_a_bias(self, save_backbone, tmp_path, sid_index) -> None:
        folder = save_backbone(tmp_path / "llama")
        config = PhiConfig(vocab_size=60, **{**SMALL, "num_key_value_heads": 2})
        base = AutoModelForCausalLM.from_config(config)
        torch.nn.init.normal_(base.lm_head.bias)
        base.save_pretrained(tmp_path / "phi")
        tokenizer = TSRecTokenizer.from_backbone(f"{folder}/tokenizer", sid_index)
        model = TSRecForCausalLM.from_backbone(tmp_path / "phi", tokenizer)
        first = tokenizer.sid_token_ids[0][0]
        assert first < 60
        bias = model.get_output_embeddings().bias
        torch.testing.assert_close(bias[first : first + 7], base.lm_head.bias[:first].mean().expand(7))
        assert torch.equal(bias[:first], base.lm_head.bias[:first])
        model.recommend(tokenizer, HISTORIES, top_k=2)

    def test_semantics_are_recorded(self, make) -> None:
        model, _, _ = make("llama", tied=False)
        record = model.config.sid_initialization
        assert (
            record["pooling"] == "idf"
            and [row["matrix"] for row in record["levels"]] == ["input"] * 3 + ["output"] * 3
        )

    def test_errors(self, backbone_dir, tokenizer, semantics) -> None:
        with pytest.raises(ValueError, match="`semantics` with `sa_init_kwargs`"):
            TSRecForCausalLM.from_backbone(backbone_dir, tokenizer, sa_init_kwargs={"pooling": "idf"})
        with pytest.raises(ValueError, match="`pooling` 'mean' or 'idf', but found 'max'"):
            TSRecForCausalLM.from_backbone(backbone_dir, tokenizer, semantics, sa_init_kwargs={"pooling": "max"})
        plain = AutoTokenizer.from_pretrained(backbone_dir)
        with pytest.raises(TypeError, match="Expected a `TSRecTokenizer`, but found .*from_backbone"):
            TSRecForCausalLM.from_backbone(backbone_dir, plain)

    def test_a_vocabulary_that_cannot_grow(self, backbone_dir, tokenizer, monkeypatch) -> None:
        resize = LlamaForCausalLM.resize_token_embeddings

        def crash(self, *args, **kwargs):
            raise AttributeError("no embeddings")

        def miscount(self, *args, **kwargs):
            rows = self.config.vocab_size
            resize(self, *args, **kwargs)
            self.config.vocab_size = rows

        for method, words in (
            (crash, "`LlamaForCausalLM.resize_token_embeddings` ends in AttributeError: no embeddings"),
            (miscount, r"but its configuration says \["),
            (lambda self, *args, **kwargs: None, "leaves matrices of"),
        ):
            monkeypatch.setattr(LlamaForCausalLM, "resize_token_embeddings", method)
            with pytest.raises(ValueError, match=words):
                TSRecForCausalLM.from_backbone(backbone_dir, tokenizer)

    def test_a_class_that_empties_the_padding_row_when_loaded(
        self, make, save_backbone, tokenizer, monkeypatch
    ) -> None:
        def empty(self, module):
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight.data[module.padding_idx] = 0

        def resized(vocab, tied):
            return LlamaConfig(vocab_size=vocab, pad_token_id=3, tie_word_embeddings=tied, **SMALL)

        monkeypatch.setattr(LlamaForCausalLM, "_init_weights", empty)
        monkeypatch.setitem(save_backbone.__globals__["BACKBONES"], "padded", resized)
        make("padded", tied=False, semantics=None)
        with pytest.raises(ValueError, match="`LlamaForCausalLM` sets row 3, of the padding token, to 0 whenever"):
            make("padded", tied=True, semantics=None)

    def test_the_tokenizer_of_a_larger_backbone(self, tokenizer, tmp_path) -> None:
        AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=20, **SMALL)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="has only 20 rows of embeddings.*from the same backbone"):
            TSRecForCausalLM.from_backbone(tmp_path, tokenizer)

    def test_a_backbone_in_training_mode_comes_back_in_evaluation_mode(self, model) -> None:
        assert not any(module.training for module in model.modules())


class TestRecommend:
    def test_every_item_once_and_sid_mates_in_index_order(self, model, tokenizer) -> None:
        for row in model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8):
            assert sorted(r.item_id for r in row) == sorted(tokenizer.sid_index.item_ids)
            assert all(r.sid == tokenizer.sid_index.sid_of(r.item_id) for r in row)
            scores = [r.score for r in row]
            assert scores == sorted(scores, reverse=True) and max(scores) < 0
            ids = [r.item_id for r in row]
            assert ids.index("screw") == ids.index("nail") + 1
            assert row[ids.index("nail")].score == row[ids.index("screw")].score

    def test_top_k_cuts_a_shared_sid(self, model, tokenizer) -> None:
        [whole] = model.recommend(tokenizer, HISTORIES[:1], top_k=8, num_beams=8)
        ids = [r.item_id for r in whole]
        for top_k in range(1, 9):
            [row] = model.recommend(tokenizer, HISTORIES[:1], top_k=top_k, num_beams=8)
            assert [r.item_id for r in row] == ids[:top_k]

    def test_more_asked_for_than_there_is(self, model, tokenizer) -> None:
        [row] = model.recommend(tokenizer, HISTORIES[:1], top_k=100, num_beams=8)
        assert len(row) == 8
        [row] = model.recommend(tokenizer, HISTORIES[:1], top_k=100)  # 50 beams by default; 8 items.
        assert len(row) == 8

    def test_no_users(self, model, tokenizer) -> None:
        assert model.recommend(tokenizer, []) == []

    @pytest.mark.parametrize("kind", KINDS)
    def test_batch_size_and_order_of_users_do_not_matter(self, make, kind) -> None:
        model, tokenizer, _ = make(kind)
        items = tokenizer.sid_index.item_ids
        histories = [items[start : start + length] for start in range(4) for length in (1, 4, 2)] + [items[:1] * 12]
        expected = model.recommend(tokenizer, histories, top_k=8, num_beams=8, batch_size=1)
        for batch_size in (2, 5, 100):
            assert_close(model.recommend(tokenizer, histories, top_k=8, num_beams=8, batch_size=batch_size), expected)
        backwards = model.recommend(tokenizer, histories[::-1], top_k=8, num_beams=8, batch_size=4)
        assert_close(backwards[::-1], expected)
        assert_close(model.recommend(tokenizer, [tuple(h) for h in histories], top_k=8, num_beams=8), expected)

    def test_the_newest_items_count(self, backbone_dir, sid_index, semantics) -> None:
        tokenizer = TSRecTokenizer.from_backbone(backbone_dir, sid_index, max_history=2)
        model = TSRecForCausalLM.from_backbone(backbone_dir, tokenizer, semantics)
        long, kept, oldest = model.recommend(
            tokenizer, [["apple", "pear", "saw", "hammer"], ["saw", "hammer"], ["apple", "pear"]], top_k=3, num_beams=8
        )
        assert_close([long], [kept])
        assert [r.score for r in long] != pytest.approx([r.score for r in oldest], abs=1e-3)

    def test_beams_default_to_the_configurations(self, model, tokenizer, monkeypatch) -> None:
        seen = []
        beam = SIDSearch.beam
        monkeypatch.setattr(
            SIDSearch, "beam", lambda *args, **kwargs: (seen.append(args[3]), beam(*args, **kwargs))[1]
        )
        model.config.recommend_num_beams = 5
        model.recommend(tokenizer, HISTORIES, top_k=5, batch_size=2)
        model.recommend(tokenizer, HISTORIES, top_k=1, num_beams=3)
        assert seen == [5, 5, 3]

    def test_training_mode_is_left_and_restored(self, make) -> None:
        model, tokenizer, _ = make("gpt2")  # with dropout of 0.1, its default
        assert model.config.backbone_config.resid_pdrop == 0.1
        expected = model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8)
        model.train()
        model.backbone.transformer.h[0].eval()  # As one who freezes a block would have it.
        modes = [module.training for module in model.modules()]
        assert any(modes) and not all(modes)
        for _ in range(3):
            assert model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8) == expected
        assert [module.training for module in model.modules()] == modes
        with pytest.raises(KeyError):
            model.recommend(tokenizer, [["spoon"]])
        model.get_input_embeddings().weight.data.fill_(torch.nan)
        with pytest.raises(ValueError, match="NaN"):
            model.recommend(tokenizer, HISTORIES)
        assert [module.training for module in model.modules()] == modes  # After an error as well.

    def test_nothing_is_cached_between_calls(self, model, tokenizer) -> None:
        before = model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.5)
        assert model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8) != before

    def test_other_parts_of_a_dataset_may_be_passed(self, model, tokenizer, dataset) -> None:
        histories = dataset.test["history"]
        assert_close(
            model.recommend(tokenizer, histories, top_k=3),
            model.recommend(tokenizer, [list(history) for history in histories], top_k=3),
        )

    @pytest.mark.parametrize(
        ("histories", "kwargs", "error", "words"),
        [
            ([[]], {}, ValueError, "history of at least one item"),
            ([["hammer"], []], {}, ValueError, "history of at least one item"),
            ([["hammer", "spoon"]], {}, KeyError, "'spoon' is not among the 8 items"),
            ([["hammer", None]], {}, KeyError, "None is not among the 8 items"),
            (["hammer", "nail"], {}, TypeError, "one list per user.*a single list of ids.*`.history.`"),
            ("hammer", {}, TypeError, "one list per user"),
            ([["hammer"], "nail"], {}, TypeError, "list of item ids, but found the string 'nail'"),
            ([["hammer"], None], {}, TypeError, "list of item ids, but found None of type `NoneType`"),
            ([1, 2], {}, TypeError, "list of item ids, but found 1 of type `int`"),
            ((row for row in [["hammer"]]), {}, TypeError, "but found `generator`.*`list.*`pipeline"),
            (Dataset.from_dict({"history": [["hammer"]]}), {}, TypeError, r"but found `Dataset`.*`rows\['history'\]`"),
            ({"history": ["hammer"]}, {}, TypeError, "but found `dict`"),
            ([["hammer"]], {"top_k": 5, "num_beams": 4}, ValueError, "num_beams=4 and top_k=5.*`num_beams=5` or more"),
            ([["hammer"]], {"top_k": 0}, ValueError, "at least 1, but found 0"),
            ([["hammer"]], {"batch_size": 0}, ValueError, "`batch_size` as a whole number of at least 1, but found 0"),
            ([["hammer"]], {"num_beams": 0}, ValueError, "`num_beams` as a whole number of at least 1, but found 0"),
            ([["hammer"]], {"top_k": "5"}, TypeError, "`top_k` as a whole number of at least 1, but found '5'"),
            ([["hammer"]], {"top_k": True}, TypeError, "`top_k` as a whole number of at least 1, but found True"),
            ([["hammer"]], {"batch_size": 2.0}, TypeError, "`batch_size` as a whole number.*but found 2.0"),
            ([["hammer"]], {"exclude_history": "no"}, TypeError, "`exclude_history` to be True or False.*'no'"),
            ([["hammer"]], {"unknown_items": "skip"}, ValueError, "'error' or 'drop', but found 'skip'"),
            ([["hammer"], []], {"unknown_items": "drop"}, ValueError, "history of at least one item"),
            (["hammer", "nail"], {"unknown_items": "drop"}, TypeError, "one list per user"),
            ([["hammer"]], {"search": "greedy"}, ValueError, "'beam' or 'exact', but found 'greedy'"),
            ([["hammer"]], {"scoring": "items"}, ValueError, "'catalogue'.*but found 'items'"),
        ],
    )
    def test_errors(self, model, tokenizer, histories, kwargs, error, words) -> None:
        with pytest.raises(error, match=words):
            model.recommend(tokenizer, histories, **kwargs)

    @pytest.mark.parametrize("search", ["beam", "exact"])
    def test_items_that_the_catalogue_no_longer_holds(self, model, tokenizer, search, monkeypatch) -> None:
        told: list[str] = []
        monkeypatch.setattr(recommending_tsrec.logger, "warning", told.append)
        whole = [["hammer", "nail"], ["apple"], ["saw"], ["pear", "bread"]]
        rules = [["nail", "saw"], ["pear", "bread"], ["apple"], ["hammer", "screw"]]
        options = {"top_k": 4, "num_beams": 8, "search": search, "allowed_items": rules}
        expected = model.recommend(tokenizer, whole, **options)
        given = [["hammer", "gone", "nail"], ["apple"], ["gone", "lost"], ["gone", "pear", "bread"]]
        with pytest.raises(KeyError, match="'gone' is not among"):
            model.recommend(tokenizer, given, **options)
        found = model.recommend(tokenizer, given, unknown_items="drop", **options)
        assert_close([found[user] for user in (0, 1, 3)], [expected[user] for user in (0, 1, 3)])
        assert found[2] == []
        assert len(told) == 1 and "3 of 4 histories name items" in told[0] and "1 have none left" in told[0]

    def test_another_index(self, model, tokenizer, backbone_dir, sid_index) -> None:
        other = TSRecTokenizer.from_backbone(backbone_dir, SIDIndex(sid_index.item_ids[::-1], sid_index.codes))
        with pytest.raises(ValueError, match="belongs to the SID index .* the tokenizer holds another"):
            model.recommend(other, HISTORIES)

    def test_a_plain_tokenizer(self, model, backbone_dir) -> None:
        with pytest.raises(TypeError, match="Expected a `TSRecTokenizer`"):
            model.recommend(AutoTokenizer.from_pretrained(backbone_dir), HISTORIES)

    def test_another_max_history(self, model, tokenizer, backbone_dir, sid_index, tmp_path) -> None:
        model.save_pretrained(tmp_path)
        TSRecTokenizer.from_backbone(backbone_dir, sid_index, max_history=20).save_pretrained(tmp_path)
        other = TSRecTokenizer.from_pretrained(tmp_path)
        assert other.max_history == 20 and tokenizer.max_history == model.config.max_history == 10
        with pytest.raises(ValueError, match="trained with histories of at most 10, but the tokenizer says 20"):
            TSRecForCausalLM.from_pretrained(tmp_path).recommend(other, HISTORIES)

    def test_another_prompt_version(self, model, tokenizer, tmp_path) -> None:
        model.config.prompt_version = "0"
        with pytest.raises(
            ValueError, match=f"trained with prompts of version '0', but the tokenizer says '{PROMPT_VERSION}'"
        ):
            model.recommend(tokenizer, HISTORIES)
        model.config.prompt_version = None
        tokenizer.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        config["tsrec_prompt_version"] = "0"
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="tokenizer belongs to prompt version '0'"):
            model.recommend(TSRecTokenizer.from_pretrained(tmp_path), HISTORIES)

    def test_a_model_that_has_diverged(self, model, tokenizer) -> None:
        with torch.no_grad():
            model.get_input_embeddings().weight.fill_(math.nan)
        with pytest.raises(ValueError, match="model's are NaN.*diverged"):
            model.recommend(tokenizer, HISTORIES)


def test_the_files_that_are_needed_are_copied(model, tokenizer, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    source = Path(sys.modules[TSRecForCausalLM.__module__].__file__).parent
    copied = {path.stem: path.read_text() for path in tmp_path.glob("*.py")}
    assert {"configuration_tsrec", "modeling_tsrec", "tokenization_tsrec"} <= set(copied)
    for name, text in copied.items():
        assert text == (source / f"{name}.py").read_text()
        siblings = [
            node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level
        ]
        assert set(siblings) <= set(copied)


def test_semantics_of_another_index_are_refused(tokenizer) -> None:
    semantics = TokenSemantics([], fingerprint="another")
    # Before anything is loaded.
    with pytest.raises(ValueError, match="but these belong to index another"):
        TSRecForCausalLM.from_backbone("nowhere", tokenizer, semantics=semantics)


class TestWhatLoadsIsWhatWasSaved:
    @pytest.mark.parametrize("tied", [True, False])
    def test_missing_weights(self, save_backbone, sid_index, tmp_path, tied) -> None:
        folder = save_backbone(tmp_path / "backbone", tied=tied)
        tokenizer = TSRecTokenizer.from_backbone(folder, sid_index)
        TSRecForCausalLM.from_backbone(folder, tokenizer).save_pretrained(tmp_path / "saved")
        model, info = TSRecForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
        assert isinstance(model, TSRecForCausalLM) and not info["missing_keys"]
        weights = load_file(tmp_path / "saved" / "model.safetensors")
        gone = next(name for name in weights if "q_proj" in name)
        del weights[gone]
        save_file(weights, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"but 1 are missing, such as '{gone}', and would be random"):
            TSRecForCausalLM.from_pretrained(tmp_path / "saved")

    def test_no_configuration(self, model, tmp_path) -> None:
        model.save_pretrained(tmp_path)
        (tmp_path / "config.json").unlink()
        with pytest.raises((ValueError, OSError), match="config.json"):
            TSRecForCausalLM.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "tsrec"}')
        with pytest.raises(ValueError, match="`backbone_config`, but found one with .*'model_type'.* alone"):
            TSRecForCausalLM.from_pretrained(tmp_path)

    def test_a_tokenizer_of_another_backbone(self, model, tokenizer, sid_index, backbone_dir, tmp_path) -> None:
        larger = AutoTokenizer.from_pretrained(backbone_dir)
        larger.add_tokens(["one more"])
        larger.save_pretrained(tmp_path)
        other = TSRecTokenizer.from_backbone(tmp_path, sid_index)
        assert other.sid_index.fingerprint == tokenizer.sid_index.fingerprint
        with pytest.raises(ValueError, match="SID token '<a_0>' in row 48, but the tokenizer gives it the id 49"):
            model.recommend(other, HISTORIES)
