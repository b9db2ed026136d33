"""The card that a trainer writes: facts of the run, in the checkpoint and in its README."""

import importlib.util
import json
import re

import pytest
from huggingface_hub import ModelCard
from transformers import TrainerCallback

from tsrec_hf import (
    TSRecForCausalLM,
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    build_grpo_rows,
    build_sequence_rows,
    exact_match_reward,
)
from tsrec_hf.models.configuration_tsrec import UNNAMED_REPO
from tsrec_hf.trainers import model_card


COMMON = {"max_steps": 2, "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True}


@pytest.fixture
def sft(model, tokenizer, dataset, tmp_path):
    def make(**settings):
        args = TSRecSFTConfig(tmp_path / "tsrec-tiny", eval_num_beams=8, **{**COMMON, **settings})
        rows = build_sequence_rows(dataset.train, tokenizer)
        return TSRecSFTTrainer(
            model,
            args,
            train_dataset=rows,
            eval_dataset=rows,
            eval_interactions=dataset.valid,
            processing_class=tokenizer,
            card_facts={"dataset": dataset, "sid_method": "by hand.", "license": "mit", "base_model": "a/b"},
        )

    return make


def test_saving_writes_the_facts_of_the_run(sft, tmp_path):
    trainer = sft(learning_rate=0.00125)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    for told in (
        "# tsrec-tiny",
        "tiny: 8 items; rows of history and next item: 6 train, 2 valid, 2 test.",
        "Method: by hand.",
        "pooling `idf`",
        "**Training: SFT.** Rows of each task: sequence 3.",
        "2 steps, 2.00 passes.",
        "| learning_rate | 0.00125 |",
        "https://huggingface.co/a/b",
    ):
        assert told in card.text
    assert card.data.license == "mit" and card.data.base_model == "a/b"
    assert {"tsrec", "sft", "trl"} <= set(card.data.tags)
    found = {result.metric_name: result for result in card.data.eval_results}
    assert found["HR@10, by item"].metric_value == pytest.approx(metrics["eval_hr@10"], abs=1e-6)
    assert found["NDCG@3, by SID"].metric_value == pytest.approx(metrics["eval_sid_ndcg@3"], abs=1e-6)
    # Lists of ten hold all six items that were ever a target, "nail" and "hammer" of the validation rows among them.
    assert found["HR@10, by item"].metric_args["baselines"] == {"popularity": 1.0, "next-item counts": 1.0}
    assert card.data.eval_results[0].dataset_split == "validation"
    facts = json.loads((tmp_path / "saved" / "config.json").read_text())["run_facts"]
    assert facts["dataset"] == {"name": "tiny", "items": 8, "train": 6, "valid": 2, "test": 2}
    assert [stage["method"] for stage in facts["stages"]] == ["SFT"]


def test_checkpoints_leave_the_card_in_the_output_folder(sft, tmp_path):
    sft(save_strategy="steps", save_steps=1, max_steps=1).train()
    assert "# tsrec-tiny" in (tmp_path / "tsrec-tiny" / "README.md").read_text()
    config = json.loads((tmp_path / "tsrec-tiny" / "checkpoint-1" / "config.json").read_text())
    assert config["run_facts"]["stages"][0]["steps"] == 1


def test_the_card_of_a_policy_tells_of_its_fine_tuning(sft, tokenizer, dataset, tmp_path):
    trainer = sft()
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    model = TSRecForCausalLM.from_pretrained(tmp_path / "saved")
    args = TSRecGRPOConfig(
        tmp_path / "policy", num_generations=4, per_device_train_batch_size=4, hub_model_id="me/policy", **COMMON
    )
    rows = build_grpo_rows(dataset.train, tokenizer)
    policy = TSRecGRPOTrainer(model, exact_match_reward, args, train_dataset=rows, processing_class=tokenizer)
    policy.train()
    text = model.model_card
    assert "**Training, stage 1: SFT.**" in text and "**Training, stage 2: GRPO.**" in text
    assert "GRPO.** 6 rows. Rewards: exact_match_reward." in text and 'from_pretrained("me/policy")' in text
    assert "tiny: 8 items" in text and "https://huggingface.co/a/b" in text
    assert "None were measured." in text
    # A second call of `train` is the same stage.
    assert len(model.config.run_facts["stages"]) == 2
    policy.create_model_card("other", dataset_name="me/data", tags="mine")
    card = ModelCard.load(tmp_path / "policy" / "README.md")
    assert "# other" in card.text and card.data.datasets == "me/data" and "mine" in card.data.tags


class Worse(TrainerCallback):
    """Makes the model useless behind the first evaluation."""

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            for parameter in model.parameters():
                parameter.data.neg_()


def test_figures_are_those_of_the_best_model_where_it_is_loaded(sft):
    trainer = sft(
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    trainer.add_callback(Worse())
    trainer.train()
    evaluations = trainer.recommendation_metrics.results
    assert trainer.state.best_global_step == 1 and set(evaluations) == {1, 2}
    evaluations[1] = {"all": {"num_rows": 2, "hr@10": 0.123, "ndcg@10": 0.1}}
    assert "0.1230" in str(trainer.model_card())


def test_figures_of_other_weights_are_left_out(sft):
    """An evaluation of the start says nothing of what was trained."""
    trainer = sft()
    trainer.evaluate()
    assert trainer.model_card().data.eval_results
    trainer.train()
    assert trainer.model_card().data.eval_results is None
    trainer.evaluate()
    assert trainer.model_card().data.eval_results


def test_adapters_are_named(model, tokenizer, dataset, tmp_path):
    from peft import LoraConfig

    args = TSRecSFTConfig(tmp_path / "adapter", **{**COMMON, "max_steps": 1})
    # Its SID rows were trained before: adapters may leave them as they are.
    model.config.run_facts = {
        "stages": [
            {
                "method": "SFT",
                "trainable": "all",
                "trainable_parameters": 1,
                "steps": 1,
                "epochs": 1.0,
                "settings": {},
                "rows": 6,
            }
        ]
    }
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    rows = build_sequence_rows(dataset.train, tokenizer)
    trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, peft_config=config)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert "| adapter | LORA (r=2, lora_alpha=4) |" in card.text and "128 parameters trained (adapters)" in card.text
    assert card.data.library_name == "peft" and "tsrec" in card.data.tags
    # The folder holds adapters alone: no code, no handler, and no model before it is merged into its base.
    assert not (tmp_path / "saved" / "handler.py").exists() and "handler.py" not in card.text
    assert "trust_remote_code=True" not in card.text and "adapters" in card.text.split("## How to use")[0]
    snippet, export = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    names = {}
    exec(snippet.replace(UNNAMED_REPO, str(tmp_path / "saved")), names)
    assert not hasattr(names["model"], "peft_config") and 'export_backbone(model, "exported", tokenizer)' in export
    expected = trainer.recommender.recommend(tokenizer, [["hammer"]], top_k=3)
    found = names["model"].recommend(names["tokenizer"], [["hammer"]], top_k=3)
    assert [item.item_id for item in found[0]] == [item.item_id for item in expected[0]]


def test_adapters_of_a_checkpoint_on_the_hub_name_it(model, tokenizer, dataset, tmp_path):
    from peft import LoraConfig

    args = TSRecSFTConfig(tmp_path / "adapter", **COMMON)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    rows = build_sequence_rows(dataset.train, tokenizer)
    trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, peft_config=config)
    trainer.adapter.base_model_name_or_path = "me/tsrec-base"
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "adapter" / "README.md")
    assert (
        card.data.base_model == "me/tsrec-base"
        and "[me/tsrec-base](https://huggingface.co/me/tsrec-base)" in card.text
    )


def test_the_card_is_built_once_a_save(sft, tmp_path, monkeypatch):
    built = []
    build = model_card.build_model_card
    monkeypatch.setattr(
        model_card, "build_model_card", lambda *args, **kwargs: built.append(1) or build(*args, **kwargs)
    )
    trainer = sft(save_strategy="steps", save_steps=1, max_steps=2)
    monkeypatch.setattr(trainer, "_plot", lambda folder: None)  # a card with a picture is another one
    trainer.save_model(tmp_path / "saved")
    assert len(built) == 1
    trainer.train()
    # Two checkpoints, and the end of training.
    assert len(built) == 1 + 2 + 1


def test_the_run_is_drawn_beside_the_card(model, tokenizer, dataset, tmp_path, monkeypatch, caplog):
    args = TSRecSFTConfig(str(tmp_path), max_steps=2, logging_steps=1, report_to="none", use_cpu=True, bf16=False)
    rows = build_sequence_rows(dataset.train, tokenizer)
    trainer = TSRecSFTTrainer(
        model,
        args,
        train_dataset=rows,
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
        card_facts={"dataset": dataset},
    )
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card()
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert "](training.png)" in (tmp_path / "README.md").read_text()
    assert "](training.png)" not in model.model_card  # what is pushed from memory has no picture
    (tmp_path / "training.png").unlink()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    with caplog.at_level("INFO"):
        trainer.create_model_card()
    assert not (tmp_path / "training.png").exists() and caplog.text.count("No plot of the run") == 1
    assert "](training.png)" not in (tmp_path / "README.md").read_text()
