"""QLoRA and 8-bit optimisers on a CPU: bitsandbytes' weights, float32 SID rows."""

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM
from trl import ModelConfig

from tsrec_hf.data import build_alignment_rows, build_grpo_rows, tokenize_rows
from tsrec_hf.hub import load_recommender
from tsrec_hf.models import PromptBuilder, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.rewards import prefix_reward
from tsrec_hf.trainers import (
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    lora_config,
    quantize,
)


COMMON = {
    "max_steps": 4,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
    "eval_num_beams": 7,
}
QUANTIZED = {
    "nf4": {"load_in_4bit": True},
    "nested nf4": {"load_in_4bit": True, "use_bnb_nested_quant": True},
    "int8": {"load_in_8bit": True},
}
QUICK = {(False, "nf4"), (True, "int8")}  # untied and tied
HISTORIES = [["hammer", "nail"], ["apple"]]


@pytest.fixture
def checkpoint(request, backbone_dir, sid_index, semantics, tmp_path):
    """A recommender wide enough for blocks of 4-bit weights, on disk."""
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, sid_index)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) - sum(map(len, tokenizer.sid_token_ids)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=request.param,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "backbone")
    TSRecForCausalLM.from_backbone(tmp_path / "backbone", tokenizer, semantics).save_pretrained(tmp_path / "sft")
    tokenizer.save_pretrained(tmp_path / "sft")
    return tmp_path / "sft"


def load_quantized(checkpoint, kind):
    model_args = ModelConfig(use_peft=True, lora_r=4, lora_dropout=0.0, **QUANTIZED[kind])
    model, tokenizer = load_recommender(checkpoint)
    args = TSRecSFTConfig(str(checkpoint / "unused"), bf16=False)
    quantized = quantize(model, tokenizer, model_args, args)
    assert not (checkpoint / "unused").exists() and quantized.dtype == torch.float32
    return quantized, tokenizer, lora_config(quantized, tokenizer, model_args)


def sft(model, tokenizer, semantics, folder, peft_config=None, **arguments):
    eval_interactions = arguments.pop("eval_interactions", None)
    args = TSRecSFTConfig(str(folder), **{**COMMON, "per_device_train_batch_size": 14, **arguments})
    rows = Dataset.from_list(tokenize_rows(build_alignment_rows(semantics, tokenizer), tokenizer))
    return TSRecSFTTrainer(
        model,
        args,
        train_dataset=rows,
        eval_dataset=rows,
        eval_interactions=eval_interactions,
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def sid_deltas(model):
    return {name: parameter for name, parameter in model.named_parameters() if "trainable_tokens_delta" in name}


def logits_of(model, tokenizer):
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, *tokenizer.encode_sids(["nail"])[0], 9, 6]])).logits


@pytest.mark.parametrize(
    ("checkpoint", "kind"),
    [
        pytest.param(tied, kind, marks=[] if (tied, kind) in QUICK else pytest.mark.slow)
        for tied in (True, False)
        for kind in QUANTIZED
    ],
    indirect=["checkpoint"],
)
def test_qlora_trains_evaluates_and_generates(checkpoint, kind, semantics, dataset, tmp_path):
    model, tokenizer, config = load_quantized(checkpoint, kind)
    plain, _ = load_recommender(checkpoint)
    trainer = sft(
        model,
        tokenizer,
        semantics,
        tmp_path / "out",
        config,
        eval_strategy="steps",
        eval_steps=1,
        eval_interactions=dataset.valid,
    )
    # The linear layers are quantised, the embeddings and the head are not.
    assert type(model.backbone.model.layers[0].mlp.up_proj).__name__.startswith(
        "Linear4bit" if "4" in kind else "Linear8"
    )
    tied = model.config.tie_word_embeddings
    start = {name: parameter.detach().clone() for name, parameter in sid_deltas(trainer.model).items()}
    rows = torch.tensor([token_id for level in tokenizer.sid_token_ids for token_id in level])
    assert len(start) == (1 if tied else 2)
    matrices = [plain.get_input_embeddings().weight, plain.get_output_embeddings().weight]
    for parameter, matrix in zip(start.values(), matrices):
        assert parameter.dtype == torch.float32 and torch.equal(parameter, matrix[rows])

    lora = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if "lora_A" in name}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1
    assert {p.dtype for p in sid_deltas(trainer.model).values()} == {torch.float32}
    for name, parameter in sid_deltas(trainer.model).items():
        assert bool((parameter != start[name]).any(dim=1).all()), name
    # Every layer learned, although the model was evaluated after the first step.
    after = dict(trainer.model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in lora.items())
    assert "eval_ndcg@10" in trainer.state.log_history[-2] or "eval_ndcg@10" in trainer.state.log_history[-1]

    # It recommends and generates, and comes back from disk on the same quantised base.
    assert all(len(row) == 5 for row in trainer.recommender.recommend(tokenizer, HISTORIES, top_k=5))
    prompt = tokenizer(
        PromptBuilder(tokenizer).sequence_prompt(HISTORIES[0]), add_special_tokens=False, return_tensors="pt"
    )
    generated = trainer.model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert generated.shape[1] == prompt["input_ids"].shape[1] + 3
    trainer.save_model(tmp_path / "adapter")
    base, theirs, _ = load_quantized(checkpoint, kind)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    for module in loaded.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # the arithmetic that training uses
    # TRL trains LoRA's matrices in bfloat16 here; PEFT reads them as float32.
    for name, parameter in trainer.model.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == torch.bfloat16
            parameter.data = parameter.data.float()
    torch.testing.assert_close(logits_of(loaded, theirs), logits_of(trainer.model, tokenizer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpoint", [True], indirect=True, ids=["tied"])
@pytest.mark.parametrize("kind", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_grpo_on_quantised_weights(checkpoint, kind, dataset, tmp_path):
    model, tokenizer, config = load_quantized(checkpoint, kind)
    args = TSRecGRPOConfig(str(tmp_path / "out"), **COMMON, num_generations=4, per_device_train_batch_size=8, beta=0.1)
    rows = build_grpo_rows(dataset.train, tokenizer)
    trainer = TSRecGRPOTrainer(
        model, prefix_reward, args, train_dataset=rows, processing_class=tokenizer, peft_config=config
    )
    start = {name: parameter.detach().clone() for name, parameter in sid_deltas(trainer.model).items()}
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    # Rollouts come before the first step: the weights must still be trainable.
    assert kl[0] == pytest.approx(0.0, abs=1e-4) and kl[-1] > 1e-5
    for name, parameter in sid_deltas(trainer.model).items():
        assert parameter.dtype == torch.float32 and not torch.equal(parameter, start[name])
    up = [p for name, p in trainer.model.named_parameters() if "layers.0" in name and "lora_B" in name]
    assert up and all(parameter.abs().max() > 0 for parameter in up)


@pytest.mark.parametrize("checkpoint", [False], indirect=True, ids=["untied"])
@pytest.mark.parametrize(
    ("optimizer", "part"),
    [
        ("adamw_8bit", "lora"),
        ("paged_adamw_8bit", "frozen"),
        pytest.param("adamw_8bit", "all", marks=pytest.mark.slow),
        pytest.param("paged_adamw_8bit", "lora", marks=pytest.mark.slow),
    ],
)
def test_8_bit_optimisers(checkpoint, optimizer, part, semantics, tmp_path):
    model, tokenizer = load_recommender(checkpoint)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # Matrices below 4,096 weights keep states of 32 bits, and so do embeddings; those of rank 64 have as many.
    asked = ModelConfig(use_peft=part == "lora", lora_r=64)
    trainer = sft(
        model,
        tokenizer,
        semantics,
        tmp_path,
        lora_config(model, tokenizer, asked),
        optim=optimizer,
        freeze_backbone=part == "frozen",
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1
    states = {state["state1"].dtype for state in trainer.optimizer.optimizer.state.values() if "state1" in state}
    assert (torch.uint8 in states) == (part != "frozen"), states
    if part == "frozen":
        rows = torch.tensor([token_id for level in tokenizer.sid_token_ids for token_id in level])
        others = torch.ones(len(model.get_input_embeddings().weight), dtype=torch.bool)
        others[rows] = False
        for name, parameter in model.named_parameters():
            is_matrix = "embed_tokens" in name or "lm_head" in name
            kept = (parameter[others], before[name][others]) if is_matrix else (parameter, before[name])
            assert torch.equal(*kept), name


@pytest.mark.parametrize("checkpoint", [False], indirect=True, ids=["untied"])
def test_what_was_searched_with_is_saved_as_it_is(checkpoint, tmp_path):
    """On CPUs with AVX512-BF16 bitsandbytes rearranges 4-bit weights in the first pass without a gradient."""
    model, tokenizer, _ = load_quantized(checkpoint, "nf4")
    expected = {"searched": model.recommend(tokenizer, HISTORIES, top_k=5)}
    model.save_pretrained(tmp_path / "searched")
    # Whoever runs the model itself has it rearranged, and its scales rounded, where the CPU has such products.
    logits_of(model, tokenizer)
    model.save_pretrained(tmp_path / "run")
    expected["run"] = model.recommend(tokenizer, HISTORIES, top_k=5)
    for folder, rows in expected.items():
        found = TSRecForCausalLM.from_pretrained(tmp_path / folder).recommend(tokenizer, HISTORIES, top_k=5)
        for ours, theirs in zip(rows, found, strict=True):
            assert [item.score for item in theirs] == pytest.approx([item.score for item in ours], abs=1e-4), folder
