"""LoRA with the SID rows beside it: what is trained, what stays, and that every way to load an adapter agrees."""

import copy
import json
import logging
import shutil

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, pipeline
from trl import ModelConfig

from tsrec_hf.data import build_alignment_rows, build_grpo_rows, tokenize_rows
from tsrec_hf.hub import load_recommender
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.rewards import prefix_reward
from tsrec_hf.trainers import (
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    lora_config,
    quantize,
)


LORA = ModelConfig(use_peft=True, lora_r=4, lora_dropout=0.0)
COMMON = {
    "max_steps": 4,
    "learning_rate": 0.02,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
}
HISTORIES = [["hammer", "nail"], ["apple"]]
CLOSE = {"rtol": 0, "atol": 1e-5}


def sft(model, tokenizer, semantics, folder, peft_config=None, model_args=LORA, **arguments):
    """Trains on TS-Align, in which every SID token stands once before and once behind its description."""
    args = TSRecSFTConfig(str(folder), **{**COMMON, "per_device_train_batch_size": 14, **arguments})
    rows = Dataset.from_list(tokenize_rows(build_alignment_rows(semantics, tokenizer), tokenizer))
    if not isinstance(model, PeftModel):
        peft_config = peft_config or lora_config(model, tokenizer, model_args)
    return TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config)


def grpo(model, tokenizer, dataset, folder, **arguments):
    kwargs = {name: arguments.pop(name) for name in {"peft_config", "eval_interactions"} & set(arguments)}
    settings = {"num_generations": 4, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8}
    args = TSRecGRPOConfig(str(folder), **{**COMMON, **settings, "eval_num_beams": 7, **arguments})
    rows = build_grpo_rows(dataset.train, tokenizer)
    return TSRecGRPOTrainer(model, prefix_reward, args, train_dataset=rows, processing_class=tokenizer, **kwargs)


def logits_of(model, tokenizer):
    sids = [token_id for level in tokenizer.sid_token_ids for token_id in level]
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, *sids, 9, 6]])).logits


def matrices(model):
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [inputs] if model.config.tie_word_embeddings else [inputs, outputs]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_trains_the_sid_rows_and_leaves_the_old_ones(make_recommender, semantics, tmp_path, kind, tied):
    # Padding rows of the vocabulary, some of which become SID rows, are no SID rows by themselves.
    model, tokenizer = make_recommender(kind, tied=tied, padded_rows=20)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = sft(model, tokenizer, semantics, tmp_path / "out")
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1
    merged = trainer.model.merge_and_unload()
    assert isinstance(merged, TSRecForCausalLM) and merged.config.tie_word_embeddings == tied
    assert (merged.get_input_embeddings().weight is merged.get_output_embeddings().weight) == tied
    rows = torch.tensor([token_id for level in tokenizer.sid_token_ids for token_id in level])
    others = torch.ones(len(merged.get_input_embeddings().weight), dtype=torch.bool)
    others[rows] = False
    # 7 SID tokens among 68 of the vocabulary and its padding
    assert int((~others).sum()) == 7 and int(others.sum()) > 50
    changed = set()
    for name, parameter in merged.named_parameters():
        if any(parameter is matrix for matrix in matrices(merged)):
            assert torch.equal(parameter[others], before[name][others]), name
            assert bool((parameter[rows] != before[name][rows]).any(dim=1).all()), name
        elif not torch.equal(parameter, before[name]):
            changed.add(name.rsplit(".", 2)[-2])
    assert changed == set(trainer.adapter.target_modules)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_every_way_to_load_an_adapter_agrees(make_recommender, semantics, tmp_path, kind, tied):
    model, tokenizer = make_recommender(kind, tied=tied)
    initialised = logits_of(model, tokenizer)
    trainer = sft(model, tokenizer, semantics, tmp_path / "out")
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    expected = logits_of(trainer.model, tokenizer)
    assert (expected - initialised).abs().max() > 0.1
    recommended = trainer.recommender.recommend(tokenizer, HISTORIES, top_k=7)
    folder = str(tmp_path / "adapter")

    # The adapter's own folder holds the tokenizer with its index, and no weights but what was trained.
    theirs = TSRecTokenizer.from_pretrained(folder)
    assert theirs.sid_index.fingerprint == tokenizer.sid_index.fingerprint
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    # Its base, which was made in memory, lies in the run's folder.
    base = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str((tmp_path / "out" / "_base").resolve())
    torch.testing.assert_close(logits_of(TSRecForCausalLM.from_pretrained(base), theirs), initialised, **CLOSE)

    merged, its_tokenizer = load_recommender(folder)
    assert type(merged) is TSRecForCausalLM
    merged.save_pretrained(tmp_path / "merged")
    loaded = {
        "PeftModel": PeftModel.from_pretrained(TSRecForCausalLM.from_pretrained(base), folder),
        "AutoPeftModelForCausalLM": AutoPeftModelForCausalLM.from_pretrained(folder),
        "AutoModelForCausalLM": AutoModelForCausalLM.from_pretrained(folder),
        "TSRecForCausalLM": TSRecForCausalLM.from_pretrained(folder),
        "load_recommender": merged,
        "merged and saved": TSRecForCausalLM.from_pretrained(tmp_path / "merged"),
    }
    for name, one in loaded.items():
        torch.testing.assert_close(logits_of(one, theirs), expected, **CLOSE, msg=name)
        for ours, found in zip(recommended, one.recommend(theirs, HISTORIES, top_k=7), strict=True):
            assert [item.score for item in found] == pytest.approx([item.score for item in ours], abs=1e-4), name
            assert {item.item_id for item in found} == {item.item_id for item in ours}, name
    torch.testing.assert_close(logits_of(trainer.model.merge_and_unload(), tokenizer), expected, **CLOSE)
    answer = pipeline("recommendation", model=folder)(HISTORIES[0], top_k=1)
    assert answer[0]["score"] == pytest.approx(recommended[0][0].score, abs=1e-4)


def test_an_adapter_of_another_name_is_found(model, tokenizer, semantics, tmp_path):
    model.save_pretrained(tmp_path / "base")
    base = TSRecForCausalLM.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, lora_config(base, tokenizer, LORA), adapter_name="mine")
    trainer = sft(adapted, tokenizer, semantics, tmp_path / "out", save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    expected = logits_of(trainer.model, tokenizer)
    # PEFT keeps it in a folder of its name, below the tokenizer.
    folder = tmp_path / "adapter"
    assert (folder / "mine" / "adapter_config.json").is_file() and (folder / "tokenizer_config.json").is_file()
    for place, arguments in ((folder, {}), (folder, {"subfolder": "mine"}), (folder / "mine", {})):
        loaded, theirs = load_recommender(place, **arguments)
        torch.testing.assert_close(logits_of(loaded, theirs), expected, **CLOSE)
    # A checkpoint of it is whole, and a run goes on from it.
    again = TSRecForCausalLM.from_pretrained(tmp_path / "base")
    again = get_peft_model(again, lora_config(again, tokenizer, LORA), adapter_name="mine")
    resumed = sft(again, tokenizer, semantics, tmp_path / "out", max_steps=4)
    resumed.train(resume_from_checkpoint="true")
    torch.testing.assert_close(logits_of(resumed.model, tokenizer), expected, **CLOSE)
    shutil.copytree(folder / "mine", folder / "other")
    with pytest.raises(ValueError, match=r"found 2 adapters: \['mine', 'other'\].*subfolder='mine'"):
        load_recommender(folder)


def test_a_resumed_run_ends_like_one_that_was_not_interrupted(make_recommender, semantics, tmp_path):
    found = []
    for name in ("whole", "resumed"):
        model, tokenizer = make_recommender("llama", tied=False)
        trainer = sft(model, tokenizer, semantics, tmp_path / name, save_strategy="steps", save_steps=2)
        if name == "resumed":
            shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / name / "checkpoint-2")
            trainer.train(resume_from_checkpoint=str(tmp_path / name / "checkpoint-2"))
        else:
            trainer.train()
        assert trainer.state.global_step == 4
        found.append(logits_of(trainer.model, tokenizer))
    torch.testing.assert_close(found[1], found[0], **CLOSE)
    halfway, theirs = load_recommender(tmp_path / "whole" / "checkpoint-2")
    assert (logits_of(halfway, theirs) - found[0]).abs().max() > 1e-3


def test_a_base_that_is_on_disk_is_not_saved_again(model, tokenizer, semantics, tmp_path):
    model.save_pretrained(tmp_path / "sft")
    tokenizer.save_pretrained(tmp_path / "sft")
    model = TSRecForCausalLM.from_pretrained(tmp_path / "sft")
    trainer = sft(model, tokenizer, semantics, tmp_path / "out", max_steps=1)
    trainer.train()
    trainer.save_model()
    assert not (tmp_path / "out" / "_base").exists()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "sft")


@pytest.mark.parametrize("part", ["all", "merged adapters", "quantised"])
def test_a_base_that_was_trained_since_it_was_read_is_saved(model, tokenizer, semantics, tmp_path, part):
    model.save_pretrained(tmp_path / "sft")
    tokenizer.save_pretrained(tmp_path / "sft")
    model = TSRecForCausalLM.from_pretrained(tmp_path / "sft")
    on_disk = logits_of(model, tokenizer)
    adapters = LORA if part == "merged adapters" else ModelConfig()
    stage = sft(model, tokenizer, semantics, tmp_path / "stage", model_args=adapters)
    stage.train()
    model = stage.model.merge_and_unload() if part == "merged adapters" else model
    trained = logits_of(model, tokenizer)
    assert (trained - on_disk).abs().max() > 0.1
    out = tmp_path / "out"
    if part == "quantised":
        args = TSRecSFTConfig(str(out), bf16=False)
        quantize(model, tokenizer, ModelConfig(use_peft=True, load_in_8bit=True), args)
        torch.testing.assert_close(
            logits_of(TSRecForCausalLM.from_pretrained(out / "_base"), tokenizer), trained, **CLOSE
        )
        return
    trainer = sft(model, tokenizer, semantics, out, max_steps=1)
    trainer.train()
    trainer.save_model()
    merged, theirs = load_recommender(out)
    torch.testing.assert_close(logits_of(merged, theirs), logits_of(trainer.model, tokenizer), **CLOSE)


def test_an_adapter_without_a_base_is_an_error(model, tokenizer, semantics, tmp_path):
    sft(model, tokenizer, semantics, tmp_path, max_steps=1).save_model()
    path = tmp_path / "adapter_config.json"
    for base in (None, ""):
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
        with pytest.raises(ValueError, match="adapter_config.json.*to name its base, but found (None|'')"):
            load_recommender(tmp_path)


def test_an_adapter_whose_base_is_gone_is_an_error(model, tokenizer, semantics, tmp_path):
    trainer = sft(model, tokenizer, semantics, tmp_path / "out", max_steps=1)
    trainer.save_model()
    shutil.rmtree(tmp_path / "out" / "_base")
    with pytest.raises(FileNotFoundError, match="base of the adapter .*no such folder.*`base_model_name_or_path`"):
        load_recommender(tmp_path / "out")


def test_pushing_an_adapter_of_a_local_base_is_warned_of(model, tokenizer, semantics, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(TSRecSFTTrainer, "init_hf_repo", lambda self, token=None: None)
    with caplog.at_level(logging.WARNING, logger="tsrec_hf"):
        sft(model, tokenizer, semantics, tmp_path / "out", push_to_hub=True, hub_model_id="me/adapter")
    assert "base is the local folder" in caplog.text and "Push it" in caplog.text


def test_what_is_trained_is_counted(make_recommender, semantics, tmp_path):
    model, tokenizer = make_recommender("llama", tied=False)
    trainer = sft(model, tokenizer, semantics, tmp_path, max_steps=1)
    # 2 layers; q: 4 x (16 + 16), v: 4 x (16 + 4), one head of four for keys and values; 7 rows of 16 in 2 matrices.
    total = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert trainer.describe_trainable() == (
        f"Trainable parameters: {416 + 224:,} of {total:,} (LoRA on q_proj, v_proj: 416; SID rows: 224)"
    )
    assert trainer.describe_trainable() in trainer.describe()
    trainer.train()
    assert "(adapters and sid rows)" in str(trainer.model_card())


def test_all_linear_layers_but_the_head(make_recommender, semantics, tmp_path):
    model, tokenizer = make_recommender("llama", tied=False)
    asked = ModelConfig(use_peft=True, lora_target_modules=["all-linear"])
    trainer = sft(model, tokenizer, semantics, tmp_path, model_args=asked)
    named = "LoRA on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj: "
    assert named in trainer.describe_trainable() and "SID rows: 224)" in trainer.describe_trainable()


def test_routers_get_no_adapters(make_recommender, semantics, tmp_path):
    """Linear by their class, they return more than a product."""
    model, tokenizer = make_recommender("llama4", tied=False)
    trainer = sft(model, tokenizer, semantics, tmp_path, max_steps=1)
    trainer.train()
    assert "router" not in trainer.describe_trainable() and "up_proj" in trainer.describe_trainable()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"load_in_4bit": True}, "`--load_in_4bit` or `--load_in_8bit` without `--use_peft`. Add `--use_peft`"),
        (
            {"use_peft": True, "lora_modules_to_save": ["embed_tokens"]},
            r"without the embeddings, but found \['embed_tokens'\]",
        ),
    ],
)
def test_what_cannot_work_is_refused(model, tokenizer, settings, message):
    with pytest.raises(ValueError, match=message):
        lora_config(model, tokenizer, ModelConfig(**settings))


def test_no_adapters_where_none_are_asked_for(model, tokenizer):
    assert lora_config(model, tokenizer, ModelConfig()) is None


class TestGRPO:
    def test_the_reference_is_the_recommender_without_adapters(self, make_recommender, dataset, tmp_path):
        model, tokenizer = make_recommender("llama", tied=False)
        config = lora_config(model, tokenizer, LORA)
        before = logits_of(model, tokenizer)
        trainer = grpo(model, tokenizer, dataset, tmp_path / "out", peft_config=config, beta=0.1)
        assert trainer.ref_model is None
        trainer.train()
        kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
        # Nothing is trained before the first step.
        assert kl[0] == pytest.approx(0.0, abs=1e-6) and kl[-1] > 1e-4
        with trainer.model.disable_adapter():
            torch.testing.assert_close(logits_of(trainer.model, tokenizer), before, rtol=0, atol=0)
        trainer.save_model(tmp_path / "adapter")
        merged, theirs = load_recommender(tmp_path / "adapter")
        torch.testing.assert_close(logits_of(merged, theirs), logits_of(trainer.model, tokenizer), **CLOSE)

    def test_an_adapter_that_goes_on_is_its_own_reference(self, make_recommender, semantics, dataset, tmp_path):
        model, tokenizer = make_recommender("llama", tied=False)
        first = sft(model, tokenizer, semantics, tmp_path / "sft")
        first.train()
        first.save_model()
        adapter = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "sft"), is_trainable=True)
        start = logits_of(adapter, tokenizer)
        trainer = grpo(adapter, tokenizer, dataset, tmp_path / "out", beta=0.1)
        trainer.train()
        kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
        assert kl[0] == pytest.approx(0.0, abs=1e-6) and kl[-1] > 1e-5
        trainer.model.set_adapter("ref")
        torch.testing.assert_close(logits_of(trainer.model, tokenizer), start, **CLOSE)

    def test_a_reference_needs_an_adapter_of_the_usual_name(self, model, tokenizer, dataset, tmp_path):
        adapter = get_peft_model(model, lora_config(model, tokenizer, LORA), adapter_name="mine")
        message = "of the name 'default', whose copy becomes the reference of `beta`=0.1, but found .*mine"
        with pytest.raises(ValueError, match=message):
            grpo(adapter, tokenizer, dataset, tmp_path, beta=0.1)
        trainer = grpo(adapter, tokenizer, dataset, tmp_path, beta=0.0, max_steps=1)
        trainer.train()
        assert trainer.state.global_step == 1

    @pytest.mark.parametrize("tied", [pytest.param(True, marks=pytest.mark.slow), False], ids=["tied", "untied"])
    def test_frozen_backbone(self, make_recommender, dataset, tmp_path, tied, caplog):
        model, tokenizer = make_recommender("llama", tied=tied)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        trainer = grpo(model, tokenizer, dataset, tmp_path, freeze_backbone=True, beta=0.1)
        with caplog.at_level(logging.INFO, logger="tsrec_hf"):
            trainer.train()
        assert f"Trainable parameters: {112 if tied else 224} of " in caplog.text and "(SID rows)" in caplog.text
        rows = torch.tensor([token_id for level in tokenizer.sid_token_ids for token_id in level])
        for name, parameter in model.named_parameters():
            if any(parameter is matrix for matrix in matrices(model)):
                others = torch.ones(len(parameter), dtype=torch.bool)
                others[rows] = False
                assert torch.equal(parameter[others], before[name][others])
                assert not torch.equal(parameter[rows], before[name][rows])
            else:
                assert torch.equal(parameter, before[name]), name

    def test_frozen_backbones_have_no_adapters(self, model, tokenizer, dataset, tmp_path):
        config = LoraConfig(r=2, target_modules=["q_proj"])
        with pytest.raises(ValueError, match="`freeze_backbone=True` .* PEFT's adapters would not save"):
            grpo(model, tokenizer, dataset, tmp_path, freeze_backbone=True, peft_config=config)


class TestConfigurationsOfOnesOwn:
    """What `lora_config` would not make is checked as well."""

    @pytest.mark.parametrize("targets", [["q_proj", "embed_tokens"], ["q_proj", "lm_head"]], ids=["inputs", "head"])
    def test_adapters_of_tied_matrices(self, make_recommender, semantics, tmp_path, targets):
        model, tokenizer = make_recommender("llama", tied=True)
        config = LoraConfig(r=2, target_modules=targets)
        with pytest.raises(ValueError, match="which are one matrix with the .*`target_modules`|`lm_head` is not supp"):
            sft(model, tokenizer, semantics, tmp_path, peft_config=config)

    def test_rows_of_embeddings_that_do_more_than_look_up(self, make_recommender, semantics, tmp_path):
        """PEFT looks rows up by itself, and would leave out what the backbone does with them."""

        class Normed(torch.nn.Embedding):
            def forward(self, input_ids):
                return torch.nn.functional.normalize(super().forward(input_ids), dim=-1)

        model, tokenizer = make_recommender("llama", tied=False)
        model.get_input_embeddings().__class__ = Normed
        with pytest.raises(ValueError, match="PEFT 0.21 can train rows of, .* what `Normed` does besides"):
            sft(model, tokenizer, semantics, tmp_path)

    def test_rows_beside_a_head_with_a_bias(self, make_recommender, semantics, tmp_path):
        model, tokenizer = make_recommender("llama", tied=False)
        head = model.get_output_embeddings()
        head.bias = torch.nn.Parameter(torch.ones(head.out_features))
        rows = [token_id for level in tokenizer.sid_token_ids for token_id in level]
        config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices={"lm_head": rows})
        with pytest.raises(ValueError, match="an output head without bias, but found one that has it"):
            sft(model, tokenizer, semantics, tmp_path, peft_config=config)

    @pytest.mark.parametrize("init", ["pissa", "olora"])
    def test_initialisations_that_change_the_reference(self, model, tokenizer, dataset, tmp_path, init):
        config = lora_config(model, tokenizer, LORA)
        config.init_lora_weights = init
        with pytest.raises(ValueError, match=f"`init_lora_weights='{init}'` takes .* or `beta=0`"):
            grpo(copy.deepcopy(model), tokenizer, dataset, tmp_path, peft_config=copy.deepcopy(config), beta=0.1)
        # Without a reference nothing is wrong with it.
        assert grpo(model, tokenizer, dataset, tmp_path, peft_config=config, max_steps=1).train().global_step == 1

    def test_they_are_checked_where_they_are_merged(self, model, tokenizer, tmp_path):
        model.save_pretrained(tmp_path / "base")
        base = TSRecForCausalLM.from_pretrained(tmp_path / "base")
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["embed_tokens"]))
        adapted.save_pretrained(tmp_path / "adapter")
        tokenizer.save_pretrained(tmp_path / "adapter")
        with pytest.raises(ValueError, match="adapters that leave the input embeddings alone"):
            load_recommender(tmp_path / "adapter")
