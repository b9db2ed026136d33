"""Runs that cannot learn are refused before the first step, with what to change."""

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from trl import ModelConfig

from tsrec_hf.data import build_grpo_rows, build_sequence_rows
from tsrec_hf.rewards import exact_match_reward
from tsrec_hf.trainers import TSRecGRPOConfig, TSRecGRPOTrainer, TSRecSFTConfig, TSRecSFTTrainer, lora_config


COMMON = {
    "max_steps": 1,
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
}


@pytest.fixture
def sft(model, tokenizer, dataset, tmp_path):
    def make(model=model, rows=None, peft_config=None, **arguments):
        args = TSRecSFTConfig(str(tmp_path / "out"), **{**COMMON, **arguments})
        rows = build_sequence_rows(dataset.train, tokenizer) if rows is None else rows
        return TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config)

    return make


@pytest.fixture
def grpo(model, tokenizer, dataset, tmp_path):
    def make(model=model, rows=None, reward_funcs=exact_match_reward, **arguments):
        settings = {"num_generations": 2, "per_device_train_batch_size": 8, **COMMON, **arguments}
        args = TSRecGRPOConfig(str(tmp_path / "out"), **settings)
        rows = build_grpo_rows(dataset.train, tokenizer) if rows is None else rows
        return TSRecGRPOTrainer(model, reward_funcs, args, train_dataset=rows, processing_class=tokenizer)

    return make


def rows_of(num_rows, dataset, tokenizer):
    rows = build_grpo_rows(dataset.train, tokenizer)
    return rows.select([row % len(rows) for row in range(num_rows)])


@pytest.mark.parametrize("trainer", ["sft", "grpo"])
def test_a_frozen_adapter_is_refused(request, trainer, model, tokenizer, tmp_path):
    config = lora_config(model, tokenizer, ModelConfig(use_peft=True, lora_r=2))
    model.save_pretrained(tmp_path / "base")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    base = type(model).from_pretrained(tmp_path / "base")
    frozen = PeftModel.from_pretrained(base, tmp_path / "adapter")
    with pytest.raises(ValueError, match="all of this model's are frozen. Load .* is_trainable=True"):
        request.getfixturevalue(trainer)(frozen).train()


def test_a_frozen_recommender_is_refused(sft, model):
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"are frozen. Call `model.requires_grad_\(True\)`"):
        sft().train()


def test_adapters_without_sid_rows_are_refused_where_these_were_never_trained(sft, model):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="leaves them as they are. Name them in its `trainable_token_indices`"):
        sft(peft_config=config).train()


def test_adapters_without_sid_rows_train_a_recommender_that_was_fine_tuned(sft, model):
    sft().train()
    assert sft(peft_config=LoraConfig(r=2, target_modules=["q_proj"])).train().global_step == 1


@pytest.mark.parametrize("steps", [{"max_steps": 0}, {"max_steps": -1, "num_train_epochs": 0}])
def test_no_steps_are_refused(sft, steps):
    with pytest.raises(ValueError, match="at least one training step, but found max_steps="):
        sft(**steps).train()


def test_no_rows_are_refused(sft, dataset, tokenizer):
    rows = build_sequence_rows(dataset.train, tokenizer)
    with pytest.raises(ValueError, match="Expected a train dataset with rows, but found none"):
        sft(rows=rows.select([]))
    unlabelled = rows.map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(ValueError, match=f"every label of all {len(rows)} rows is -100"):
        sft(rows=unlabelled)
    with pytest.raises(ValueError, match="Expected at least one batch of 64 rows, but found .*dataloader_drop_last"):
        sft(per_device_train_batch_size=64, dataloader_drop_last=True).train()


@pytest.mark.parametrize("max_steps", [1, -1])
def test_fewer_prompts_than_a_generation_batch_are_refused(grpo, max_steps):
    message = r"at least 8 prompts, which one generation batch of 16 .* found 6.*`generation_batch_size` is 12 or less"
    with pytest.raises(ValueError, match=message):
        grpo(gradient_accumulation_steps=2, max_steps=max_steps).train()


def test_every_prompt_is_used_in_every_pass(grpo, dataset, tokenizer):
    rows = rows_of(30, dataset, tokenizer)
    trainer = grpo(rows=rows, per_device_train_batch_size=16)  # 8 prompts
    order = list(trainer._get_train_sampler())[::2]
    assert set(order) == set(range(30)) and len(order) == 32
    # No prompt twice in a batch: its completions would be the same.
    assert all(len(set(order[start : start + 8])) == 8 for start in range(0, 32, 8))


def test_passes_that_end_with_a_whole_batch_are_trls(grpo, dataset, tokenizer):
    trainer = grpo(rows=rows_of(12, dataset, tokenizer), num_iterations=2)
    theirs = super(TSRecGRPOTrainer, trainer)._get_train_sampler()
    ours = trainer._get_train_sampler()
    assert type(ours) is not type(theirs) and len(ours) == len(theirs)
    assert list(ours) == list(theirs)
    # Later passes have seeds of their own, which a resumed run knows.
    trainer.state.epoch = 1.0
    second = list(ours)
    assert second != list(theirs) and sorted(second) == sorted(theirs) and second == list(ours)


def test_no_rewards_are_refused(grpo):
    with pytest.raises(ValueError, match=r"all `reward_weights` are 0: \[0.0\]"):
        grpo(reward_weights=[0.0])


def test_routers_without_a_loss_train_without_it(make_recommender, dataset, tokenizer, tmp_path):
    """TRL adds the loss of a mixture of experts wherever a configuration has `output_router_logits`."""
    model, tokenizer = make_recommender("llama4")
    rows = build_sequence_rows(dataset.train, tokenizer)

    def make(**arguments):
        args = TSRecSFTConfig(str(tmp_path / "out"), **COMMON, **arguments)
        return TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)

    trainer = make()
    assert not trainer.aux_loss_enabled and not model.config.get_text_config().output_router_logits
    trainer.train()
    with pytest.raises(ValueError, match="since `router_aux_loss_coef` is 0.01, but `Llama4ForCausalLM` has none"):
        make(router_aux_loss_coef=0.01)
