"""Numbers that are not numbers stop training, and nothing is saved over the last good checkpoint."""

import math

import pytest
import torch
from transformers import TrainerCallback

from tsrec_hf.data import build_grpo_rows, build_sft_mixture
from tsrec_hf.models import TSRecForCausalLM
from tsrec_hf.rewards import exact_match_reward
from tsrec_hf.trainers import TSRecGRPOConfig, TSRecGRPOTrainer, TSRecSFTConfig, TSRecSFTTrainer


COMMON = {
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "logging_steps": 1,
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture
def sft(model, tokenizer, dataset, semantics, tmp_path, datasets_cache):
    def make(callbacks=None, **arguments):
        args = TSRecSFTConfig(str(tmp_path / "out"), **{**COMMON, **arguments})
        rows = build_sft_mixture(dataset, semantics, tokenizer, tasks=("sequence", "title"))
        return TSRecSFTTrainer(
            model, args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer, callbacks=callbacks
        )

    return make


@pytest.fixture
def grpo(model, tokenizer, dataset, tmp_path):
    def make(reward_funcs=exact_match_reward, callbacks=None, **arguments):
        settings = {"num_generations": 2, "per_device_train_batch_size": 4, **COMMON, **arguments}
        args = TSRecGRPOConfig(str(tmp_path / "out"), **settings)
        rows = build_grpo_rows(dataset.train, tokenizer)
        return TSRecGRPOTrainer(
            model, reward_funcs, args, train_dataset=rows, processing_class=tokenizer, callbacks=callbacks
        )

    return make


class Spoil(TrainerCallback):
    """Puts a number into the weights after a step, as a step of a huge learning rate would."""

    def __init__(self, model, step, number=math.nan):
        self.model, self.step, self.number = model, step, number

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                self.model.get_input_embeddings().weight[:] = self.number


def stopped(trainer, tmp_path, message, last_good):
    with pytest.raises(FloatingPointError, match=message) as error:
        trainer.train()
    good = f"The last good checkpoint is {tmp_path / 'out' / f'checkpoint-{last_good}'}; nothing was saved over it"
    assert (good if last_good else "There is no checkpoint before it") in str(error.value)
    saved = sorted((tmp_path / "out").glob("checkpoint-*"))
    assert [path.name for path in saved] == [f"checkpoint-{step}" for step in range(1, last_good + 1)]
    for path in saved:
        weights = TSRecForCausalLM.from_pretrained(path).get_input_embeddings().weight
        assert torch.isfinite(weights).all()


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_are_not_saved(sft, model, tmp_path, number):
    trainer = sft(callbacks=[Spoil(model, 2, number)])
    stopped(trainer, tmp_path, r"stopped at step 2: .*embed_tokens.weight holds weights that are no finite numbers", 1)
    with pytest.raises(FloatingPointError, match="no finite numbers"):
        trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_names_its_step_and_task(sft, monkeypatch, tmp_path, accumulation):
    trainer = sft(gradient_accumulation_steps=accumulation)
    forward = trainer.recommender.forward

    def spoilt(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        if trainer.state.global_step == 2:
            outputs.log_probs = outputs.log_probs * math.nan
        return outputs

    monkeypatch.setattr(trainer.recommender, "forward", spoilt)
    message = r"stopped at step 3: the loss is no finite number, in rows of the tasks \[.*'(sequence|title)'"
    stopped(trainer, tmp_path, message, 2)


def test_a_gradient_stops_before_the_step(sft, model, tmp_path):
    trainer = sft()
    before = {}

    def spoil(gradient):
        if trainer.state.global_step == 1:
            before["weights"] = model.get_input_embeddings().weight.detach().clone()
            return gradient * math.inf
        return gradient

    model.get_input_embeddings().weight.register_hook(spoil)
    stopped(trainer, tmp_path, "stopped at step 2: the gradient has the norm (nan|inf), while the loss is finite", 1)
    assert torch.equal(model.get_input_embeddings().weight, before["weights"])


def test_a_diverging_run_stops(sft, tmp_path):
    with pytest.raises(FloatingPointError, match="stopped at step [1-9]"):
        sft(learning_rate=1e30, max_grad_norm=0.0, optim="sgd", max_steps=9).train()


def test_an_evaluation_stops_training(sft, dataset, tokenizer, monkeypatch):
    trainer = sft(eval_strategy="steps", eval_steps=1, save_strategy="no")
    forward = trainer.recommender.forward

    def spoilt(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        if not trainer.model.training:
            outputs.log_probs = outputs.log_probs * math.nan
        return outputs

    monkeypatch.setattr(trainer.recommender, "forward", spoilt)
    with pytest.raises(FloatingPointError, match="eval_loss is nan"):
        trainer.train()


@pytest.mark.parametrize("number", [math.inf, -math.inf])
@pytest.mark.parametrize("dynamic_sampling", [False, True])
def test_an_infinite_reward_is_named(grpo, number, dynamic_sampling):
    def odd_reward(completions, **kwargs):
        return [None, *[number] * (len(completions) - 1)]

    with pytest.raises(FloatingPointError, match="step 1: .*reward 'odd_reward', or `None` .* found -?inf for the"):
        grpo(odd_reward, dynamic_sampling=dynamic_sampling).train()


def test_a_reward_that_is_no_number_does_not_apply_and_it_is_told(grpo, caplog):
    def odd_reward(completions, **kwargs):
        return [1.0, *[math.nan] * (len(completions) - 1)]

    trainer = grpo(odd_reward)
    trainer.train()
    assert caplog.text.count("The reward 'odd_reward' gave nan for the completion") == 1
    assert torch.isfinite(trainer.recommender.get_input_embeddings().weight).all()


def test_rollouts_of_weights_that_are_no_numbers(grpo, model, tmp_path):
    # No save sees them: the next rollout does.
    trainer = grpo(callbacks=[Spoil(model, 2)], save_steps=10)
    with pytest.raises(
        FloatingPointError, match="stopped at step 3: the policy's scores of SIDs are no finite numbers"
    ):
        trainer.train()


@pytest.mark.parametrize("kind", [TSRecSFTConfig, TSRecGRPOConfig])
@pytest.mark.parametrize(
    "setting",
    [
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"max_grad_norm": math.nan},
        {"weight_decay": math.nan},
        {"num_train_epochs": math.nan},
        {"lr_scheduler_kwargs": {"min_lr": math.nan}},
    ],
)
def test_settings(kind, setting, tmp_path):
    [name] = setting
    with pytest.raises(ValueError, match=f"Expected `{name}` with finite numbers, but found"):
        kind(str(tmp_path), bf16=False, **setting)


def test_settings_of_one_method(tmp_path):
    for task_weights in ({"title": math.nan}, '{"title": Infinity}'):
        with pytest.raises(ValueError, match="Expected `task_weights` with finite numbers"):
            TSRecSFTConfig(str(tmp_path), bf16=False, task_weights=task_weights)
    for setting in ({"beta": math.nan}, {"temperature": math.inf}, {"reward_weights": [1.0, math.nan]}):
        [name] = setting
        with pytest.raises(ValueError, match=f"Expected `{name}` with finite numbers"):
            TSRecGRPOConfig(str(tmp_path), bf16=False, **setting)
    # No limit of the gradient's norm, as usual.
    assert TSRecSFTConfig(str(tmp_path), bf16=False, max_grad_norm=math.inf).max_grad_norm == math.inf
