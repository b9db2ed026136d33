import copy
import logging
import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from transformers import EarlyStoppingCallback
from trl import SFTConfig

from tsrec_hf.data import DataCollatorForTSAlign, build_sequence_rows, build_sft_mixture, build_title_rows
from tsrec_hf.evaluation import RecommendationEvaluator
from tsrec_hf.models import PromptBuilder, SIDIndex, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.semantics import TokenSemantics
from tsrec_hf.trainers import TSRecSFTConfig, TSRecSFTTrainer, ground_sid_rows
from tsrec_hf.trainers.recommendation_metrics import RecommendationMetrics


WEIGHTS = {"title": 0.5, "alignment": 2.0, "sequence": 0.0}
TASKS = ("sequence", "title", "history_title", "alignment")
METRICS = [f"{name}@{k}" for name in ("hr", "ndcg", "sid_hr", "sid_ndcg") for k in (1, 3, 5, 10)]


@pytest.fixture
def mixture(dataset, semantics, tokenizer, datasets_cache):
    return build_sft_mixture(dataset, semantics, tokenizer)


@pytest.fixture
def make_trainer(model, tokenizer, mixture, tmp_path):
    def make(model=model, train_dataset=mixture, processing_class=tokenizer, trainer=TSRecSFTTrainer, **arguments):
        ours = {"eval_dataset", "eval_interactions", "callbacks", "data_collator", "peft_config"}
        ours = (ours | {"compute_loss_func", "optimizers"}) & set(arguments)
        kwargs = {name: arguments.pop(name) for name in ours}
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "logging_steps": 1,
            "learning_rate": 0.01,
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "eval_num_beams": 10,
            "save_strategy": "no",
        }
        args = TSRecSFTConfig(**{**defaults, **arguments})
        return trainer(
            model=model, args=args, train_dataset=train_dataset, processing_class=processing_class, **kwargs
        )

    return make


def logs_of(trainer, name="loss"):
    return [entry for entry in trainer.state.log_history if name in entry]


def total(entry, weights=None, prefix=""):
    """Sum of weight x share x loss over tasks."""
    weights = weights or {}
    tasks = [task for task in TASKS if f"{prefix}loss/{task}" in entry]
    assert math.isclose(sum(entry[f"{prefix}share/{task}"] for task in tasks), 1.0, abs_tol=1e-5)
    return sum(
        weights.get(task, 1.0) * entry[f"{prefix}share/{task}"] * entry[f"{prefix}loss/{task}"] for task in tasks
    )


def row_losses(model, row):
    """Summed loss and number of labels of one row, by the plain forward."""
    labels = torch.tensor(row["labels"])[1:]
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
    kept = labels != -100
    return torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="sum").item(), int(kept.sum())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("logging_steps", [1, 2])
def test_losses_of_tasks_add_up_to_the_logged_loss(make_trainer, weights, accumulation, logging_steps):
    trainer = make_trainer(
        max_steps=4, gradient_accumulation_steps=accumulation, logging_steps=logging_steps, task_weights=weights
    )
    trainer.train()
    entries = logs_of(trainer)
    assert len(entries) == 4 // logging_steps
    for entry in entries:
        assert total(entry, weights) == pytest.approx(entry["loss"], abs=1e-4)
    # Otherwise weights would not show.
    assert weights is None or any(abs(total(entry) - entry["loss"]) > 0.1 for entry in entries)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_losses_of_tasks_by_hand(make_trainer, model, mixture, accumulation, weights):
    # One step over all rows, so that order does not matter.
    rows = mixture.select(range(36))
    trainer = make_trainer(
        train_dataset=rows,
        max_steps=1,
        per_device_train_batch_size=36 // accumulation,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.0,
        task_weights=weights,
    )
    trainer.train()
    losses, tokens = defaultdict(float), defaultdict(int)
    for row in rows:
        loss, count = row_losses(model, row)
        losses[row["task"]] += loss
        tokens[row["task"]] += count
    [entry] = logs_of(trainer)
    assert set(losses) == set(TASKS)
    for task in TASKS:
        assert entry[f"loss/{task}"] == pytest.approx(losses[task] / tokens[task], abs=1e-4)
        assert entry[f"share/{task}"] == pytest.approx(tokens[task] / sum(tokens.values()), abs=1e-6)
    weighted = sum((weights or {}).get(task, 1.0) * losses[task] for task in TASKS)
    assert entry["loss"] == pytest.approx(weighted / sum(tokens.values()), abs=1e-4)


def test_weights_scale_the_gradients(make_trainer, model, mixture):
    """A task of weight 0 moves nothing; weights of all tasks scale the gradient, whose norm the logs hold."""
    rows = mixture.filter(lambda row: row["task"] == "title")
    common = {"train_dataset": rows, "max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 16}
    norms = []
    for weight in (1.0, 3.0, 0.0):
        trainer = make_trainer(**common, task_weights={"title": weight})
        trainer.train()
        norms.append(logs_of(trainer)[0]["grad_norm"])
    assert norms[0] > 0.1
    assert norms == pytest.approx([norms[0], 3 * norms[0], 0.0], rel=1e-4)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_losses_of_tasks_in_evaluation(make_trainer, model, mixture, weights):
    # 39 rows in batches of 4: the last one has three.
    trainer = make_trainer(eval_dataset=mixture, task_weights=weights)
    metrics = trainer.evaluate()
    assert total(metrics, weights, "eval_") == pytest.approx(metrics["eval_loss"], abs=1e-4)
    losses, shares = defaultdict(float), defaultdict(float)
    for start in range(0, 39, 4):
        batch = [(row["task"], *row_losses(model, row)) for row in mixture.select(range(start, min(start + 4, 39)))]
        tokens = sum(count for _, _, count in batch)
        for task, loss, count in batch:
            losses[task] += len(batch) * loss / tokens / 39
            shares[task] += len(batch) * count / tokens / 39
    for task in TASKS:
        assert metrics[f"eval_loss/{task}"] == pytest.approx(losses[task] / shares[task], abs=1e-4)
        assert metrics[f"eval_share/{task}"] == pytest.approx(shares[task], abs=1e-5)
    # Nothing is left over from one evaluation to the next.
    again = trainer.evaluate()
    assert [again[f"eval_loss/{task}"] for task in TASKS] == [metrics[f"eval_loss/{task}"] for task in TASKS]


def test_evaluation_amid_training_disturbs_no_sums(make_trainer, model, mixture, dataset):
    arguments = {"max_steps": 4, "logging_steps": 2}
    plain = make_trainer(model=copy.deepcopy(model), **arguments)
    plain.train()
    evaluated = make_trainer(
        eval_dataset=mixture,
        eval_interactions=dataset.test,
        eval_strategy="steps",
        eval_steps=1,
        **arguments,
    )
    evaluated.train()
    names = ["loss", *(f"loss/{task}" for task in TASKS), *(f"share/{task}" for task in TASKS)]
    for before, after in zip(logs_of(plain), logs_of(evaluated), strict=True):
        assert {name: before.get(name) for name in names} == {name: after.get(name) for name in names}
    assert len(logs_of(evaluated, "eval_loss")) == 4
    for entry in logs_of(evaluated, "eval_loss"):
        assert total(entry, prefix="eval_") == pytest.approx(entry["eval_loss"], abs=1e-4)


def test_a_second_training_starts_its_sums_anew(make_trainer):
    # Three steps logged every two: the third belongs to no log.
    trainer = make_trainer(max_steps=3, logging_steps=2)
    for _ in range(2):
        trainer.train()
        assert len(logs_of(trainer)) == 1
        [entry] = logs_of(trainer)
        assert total(entry) == pytest.approx(entry["loss"], abs=1e-4)


def test_rows_without_tasks_train_and_log_no_task(make_trainer, mixture):
    trainer = make_trainer(train_dataset=mixture.remove_columns("task"), eval_dataset=mixture.remove_columns("task"))
    trainer.train()
    metrics = trainer.evaluate()
    assert logs_of(trainer)[0]["loss"] > 0 and metrics["eval_loss"] > 0
    assert not any("loss/" in name for entry in trainer.state.log_history for name in entry)
    assert "Rows per task: 39;" in trainer.describe()


def test_recommendation_metrics_equal_the_evaluators(make_trainer, model, tokenizer, dataset, mixture):
    trainer = make_trainer(eval_dataset=mixture, eval_interactions=dataset.train, eval_num_beams=7)
    metrics = trainer.evaluate()
    evaluator = RecommendationEvaluator(dataset.train, tokenizer.sid_index, dataset.train)
    expected = evaluator.evaluate_model(model, tokenizer, num_beams=7)["all"]
    assert {f"eval_{name}" for name in METRICS} <= set(metrics)
    for name in METRICS:
        assert metrics[f"eval_{name}"] == pytest.approx(expected[name])
    # Neither nothing nor everything is found first, so that equal figures mean something.
    assert 0 < metrics["eval_ndcg@10"] < 1
    assert "eval_num_rows" not in metrics


def test_a_sample_of_users_is_scored_on_its_own(make_trainer, model, tokenizer, dataset, mixture):
    trainer = make_trainer(eval_dataset=mixture, eval_interactions=dataset.train, eval_num_users=2)
    metrics = trainer.evaluate()
    sample = dataset.train.shuffle(seed=0).select([0, 1])
    expected = RecommendationEvaluator(sample, tokenizer.sid_index, dataset.train)
    expected = expected.evaluate_model(model, tokenizer, num_beams=10)["all"]
    assert {name: metrics[f"eval_{name}"] for name in METRICS} == pytest.approx(
        {name: expected[name] for name in METRICS}
    )


def test_the_sample_is_the_same_for_every_seed(make_trainer, mixture, monkeypatch):
    items = ["hammer", "nail", "saw", "apple", "pear", "bread"]
    histories = [[first, second] for first in items for second in items]
    interactions = Dataset.from_dict({"history": histories, "target": ["cheese"] * len(histories)})
    seen = []
    recommend = TSRecForCausalLM.recommend

    def recording(self, tokenizer, histories, **kwargs):
        seen.append(histories)
        return recommend(self, tokenizer, histories, **kwargs)

    monkeypatch.setattr(TSRecForCausalLM, "recommend", recording)
    for seed in (1, 2):
        make_trainer(
            eval_dataset=mixture, eval_interactions=interactions, eval_num_users=7, seed=seed, data_seed=seed
        ).evaluate()
    assert seen[0] == seen[1] and len(seen[0]) == 7
    # A draw, not the first rows.
    assert seen[0] != histories[:7]


def test_no_recommendations_where_they_are_turned_off(make_trainer, dataset, mixture):
    off = make_trainer(eval_dataset=mixture, eval_interactions=dataset.test, eval_num_users=0)
    none = make_trainer(eval_dataset=mixture)
    for trainer in (off, none):
        assert not any("@" in name for name in trainer.evaluate())


def test_too_few_beams_are_logged(make_trainer, dataset, caplog):
    with caplog.at_level(logging.WARNING, logger="tsrec_hf"):
        # The catalogue has 7 SIDs, and a list of more cannot be asked for.
        make_trainer(eval_interactions=dataset.test, eval_num_beams=7)
        assert not [record for record in caplog.records if record.name.startswith("tsrec_hf")]
        trainer = make_trainer(eval_interactions=dataset.test, eval_num_beams=6)
    assert "6 beams find as many SIDs, so metrics at higher cut-offs are not reported" in caplog.text
    metrics = trainer.evaluate()
    assert "eval_hr@5" in metrics and not any(name.endswith("@10") for name in metrics)


def test_several_evaluation_sets(make_trainer, dataset, mixture):
    sets = {"first": mixture.select(range(8)), "second": mixture.select(range(8, 20)), "third": mixture.select([0])}
    interactions = {"first": dataset.test, "second": dataset.train}
    trainer = make_trainer(eval_dataset=sets, eval_interactions=interactions)
    metrics = trainer.evaluate()
    for name in sets:
        entry = {key.replace(f"eval_{name}_", "eval_"): value for key, value in metrics.items() if name in key}
        assert total(entry, prefix="eval_") == pytest.approx(entry["eval_loss"], abs=1e-4)
        # Each set has the figures of its own interactions, or none.
        found = {key: value for key, value in entry.items() if "@" in key}
        if name in interactions:
            alone = make_trainer(eval_dataset=sets[name], eval_interactions=interactions[name]).evaluate()
            assert found == {key: value for key, value in alone.items() if "@" in key} and found
        else:
            assert not found
    assert metrics["eval_first_ndcg@10"] != metrics["eval_second_ndcg@10"]
    # The card names them.
    assert "### first" in str(trainer.model_card()) and "### second" in str(trainer.model_card())


@pytest.mark.parametrize("named", [False, True])
def test_interactions_of_no_evaluation_set_are_an_error(make_trainer, dataset, mixture, named):
    if named:
        sets, interactions, message = mixture, {"valid": dataset.valid}, r"sets, None, but found \['valid'\]"
    else:
        sets, interactions, message = {"a": mixture, "b": mixture}, dataset.valid, r"\['a', 'b'\], but found one data"
    with pytest.raises(ValueError, match=message):
        make_trainer(eval_dataset=sets, eval_interactions=interactions)


# TRL recomputes the logits that `predict` returns, and says that it will not for ever.
@pytest.mark.filterwarnings("ignore:`return_outputs=True`:FutureWarning")
def test_recommendations_stand_under_the_name_of_their_own_rows(make_trainer, model, tokenizer, dataset, mixture):
    trainer = make_trainer(eval_dataset=mixture, eval_interactions=dataset.valid)
    rows = build_sequence_rows(dataset.test, tokenizer, mode="window")
    # Rows of another split, of which no interactions are known.
    for metrics in (
        trainer.evaluate(rows, metric_key_prefix="test"),
        trainer.predict(rows).metrics,
        trainer.evaluate({"other": rows}, metric_key_prefix="test"),
    ):
        assert any(name.startswith("test_") and name.endswith("loss") for name in metrics)
        assert not any("@" in name for name in metrics)
    assert any("@" in name for name in trainer.evaluate())
    # With them they are measured.
    metrics = trainer.evaluate(eval_interactions=dataset.test, metric_key_prefix="test")
    evaluator = RecommendationEvaluator(dataset.test, tokenizer.sid_index, dataset.train)
    expected = evaluator.evaluate_model(model, tokenizer, num_beams=10)["all"]
    assert metrics["test_ndcg@10"] == pytest.approx(expected["ndcg@10"]) and metrics["test_loss"] > 0


@pytest.mark.parametrize("named", [False, True])
def test_the_rows_that_the_trainer_was_given_are_recommended_for(make_trainer, dataset, mixture, named):
    rows, interactions = ({"a": mixture}, {"a": dataset.valid}) if named else (mixture, dataset.valid)
    trainer = make_trainer(eval_dataset=rows, eval_interactions=interactions, max_length=64)
    expected = {key.replace("eval_a_", "eval_"): value for key, value in trainer.evaluate().items() if "@" in key}
    # The trainer holds another object, which TRL prepared.
    found = trainer.evaluate(mixture)
    assert {key: value for key, value in found.items() if "@" in key} == expected and expected
    # By name too, TRL's rows or those that were given.
    for rows in ({"a": mixture}, trainer.eval_dataset if named else {"a": trainer.eval_dataset}):
        found = {key.replace("eval_a_", "eval_"): value for key, value in trainer.evaluate(rows).items() if "@" in key}
        assert found == expected


def test_interactions_that_a_call_cannot_recommend_for_are_an_error(make_trainer, dataset, mixture):
    trainer = make_trainer(eval_dataset=mixture, eval_num_users=0)
    with pytest.raises(ValueError, match="`eval_num_users` above 0 beside `eval_interactions`"):
        trainer.evaluate(eval_interactions=dataset.test)
    with pytest.raises(ValueError, match=r"one set of rows in a call with `eval_inter.*, but found \['a', 'b'\]"):
        trainer.evaluate({"a": mixture, "b": mixture}, eval_interactions=dataset.test)
    with pytest.raises(ValueError, match=r"one set of interactions in a call .*, but found \['a'\]"):
        trainer.evaluate(eval_interactions={"a": dataset.test})


def test_rows_beyond_learned_positions_are_named(make_recommender, make_trainer, dataset, tmp_path):
    model, tokenizer = make_recommender("gpt2")
    rows = Dataset.from_dict({"input_ids": [[1] * 300], "labels": [[-100] * 299 + [1]], "task": ["sequence"]})
    message = "at most 256 tokens, the positions that the backbone has learned, but found 300"
    for where in ("train_dataset", "eval_dataset"):
        sets = {"train_dataset": build_sequence_rows(dataset.train, tokenizer)} | {where: rows}
        with pytest.raises(ValueError, match=message):
            make_trainer(model=model, processing_class=tokenizer, max_length=None, **sets)
    trainer = make_trainer(
        model=model, processing_class=tokenizer, train_dataset=build_sequence_rows(dataset.train, tokenizer)
    )
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(rows)


def test_interactions_by_name_alone_make_the_evaluation_sets(make_trainer, dataset):
    trainer = make_trainer(eval_interactions={"valid": dataset.valid, "test": dataset.test})
    metrics = trainer.evaluate()
    assert {"eval_valid_loss", "eval_valid_hr@10", "eval_test_loss", "eval_test_hr@10"} <= set(metrics)


@pytest.mark.parametrize("kind", ["numpy", "pandas"])
def test_interactions_in_other_formats(make_trainer, dataset, kind):
    found = [
        make_trainer(eval_interactions=rows).evaluate() for rows in (dataset.test, dataset.test.with_format(kind))
    ]
    ours, theirs = ({name: value for name, value in metrics.items() if "@" in name} for metrics in found)
    assert ours == theirs and ours


def test_metrics_stop_training_and_choose_the_best_model(make_trainer, dataset, mixture, tmp_path):
    arguments = {
        "eval_dataset": mixture,
        "eval_interactions": dataset.test,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_ndcg@10",
        "greater_is_better": True,
    }
    # Without learning the second evaluation is no better than the first.
    trainer = make_trainer(
        max_steps=5,
        learning_rate=0.0,
        callbacks=[EarlyStoppingCallback(1)],
        output_dir=str(tmp_path / "a"),
        **arguments,
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert trainer.state.best_metric == logs_of(trainer, "eval_ndcg@10")[0]["eval_ndcg@10"]


def test_the_best_model_is_loaded_at_the_end(make_trainer, dataset, mixture, tmp_path, monkeypatch):
    # The figures are made up, so that the second step is the best of three.
    made_up = iter([0.1, 0.9, 0.5])
    monkeypatch.setattr(RecommendationMetrics, "measure", lambda *args: {"ndcg@10": next(made_up)})
    trainer = make_trainer(
        eval_dataset=mixture.select(range(4)),
        eval_interactions=dataset.test,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_ndcg@10",
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / "checkpoint-2")
    best, last = (TSRecForCausalLM.from_pretrained(tmp_path / "out" / f"checkpoint-{n}") for n in (2, 3))
    assert all(torch.equal(one, two) for one, two in zip(best.parameters(), trainer.model.parameters(), strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(last.parameters(), trainer.model.parameters()))


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_start_may_be_the_best_model(make_trainer, dataset, mixture, tmp_path, monkeypatch, caplog, best):
    made_up = iter([0.9 if step == best else 0.1 for step in range(3)])
    monkeypatch.setattr(RecommendationMetrics, "measure", lambda *args: {"ndcg@10": next(made_up)})
    trainer = make_trainer(
        eval_dataset=mixture.select(range(4)),
        eval_interactions=dataset.test,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_ndcg@10",
        greater_is_better=True,
    )
    weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    with caplog.at_level(logging.WARNING, logger="tsrec_hf"):
        trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / f"checkpoint-{best}")
    is_start = [torch.equal(one, two) for one, two in zip(weights, trainer.model.parameters(), strict=True)]
    assert all(is_start) == (best == 0)
    assert ("No checkpoint was better than the start in eval_ndcg@10 (0.9000)" in caplog.text) == (best == 0)


def test_a_run_goes_on_from_the_start_that_was_saved(make_trainer, dataset, mixture, tmp_path):
    arguments = {
        "eval_dataset": mixture.select(range(4)),
        "eval_interactions": dataset.test,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "max_steps": 2,
    }
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **arguments)
    whole.train()
    again = make_trainer(output_dir=str(tmp_path / "again"), **arguments)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-0"))
    assert again.state.global_step == whole.state.best_global_step == 2
    pairs = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_rows_that_are_too_long_lose_their_oldest_items_and_it_is_logged(make_trainer, dataset, tokenizer, caplog):
    rows = build_sequence_rows(dataset.train, tokenizer)
    test = build_sequence_rows(dataset.test, tokenizer)
    with caplog.at_level(logging.WARNING, logger="tsrec_hf"):
        trainer = make_trainer(train_dataset=rows, eval_dataset=test, max_length=14)
    messages = [record.message for record in caplog.records if record.name.startswith("tsrec_hf")]
    # ann has 17 tokens and loses the hammer and with it the target nail; both test rows lose an item of their history.
    assert messages == [
        "1 rows of the train dataset were longer than max_length=14 and lost their 1 oldest items, 1 of them targets.",
        "2 rows of the eval dataset were longer than max_length=14 and lost their 2 oldest items, 0 of them targets.",
    ]
    assert sorted(map(len, trainer.train_dataset["input_ids"])) == [11, 14, 14]
    instruction = tokenizer("Items chosen in order:").input_ids
    assert all(ids[:5] == instruction for ids in trainer.train_dataset["input_ids"])
    caplog.clear()
    make_trainer(train_dataset=rows, max_length=17)
    make_trainer(train_dataset=rows, max_length=None)
    assert not [record for record in caplog.records if record.name.startswith("tsrec_hf")]


def test_rows_of_text_that_are_too_long_are_an_error(make_trainer):
    with pytest.raises(
        ValueError, match="of task '.*' has .* tokens, more than `max_length=11`, and is not a history"
    ):
        make_trainer(max_length=11)


def test_rows_of_prompts_are_an_error(make_trainer, dataset, tokenizer, mixture):
    prompts = build_title_rows(dataset.items, tokenizer)
    message = r"dataset with tokenised rows .* found the columns \['prompt', 'completion', 'task'\]. Build it with"
    with pytest.raises(ValueError, match="Expected a train " + message):
        make_trainer(train_dataset=prompts)
    with pytest.raises(ValueError, match="Expected a eval " + message):
        make_trainer(eval_dataset=prompts)
    with pytest.raises(ValueError, match=r"found the columns \['input_ids', 'task'\]"):
        make_trainer(train_dataset=mixture.remove_columns("labels"))


def test_streams_of_evaluation_rows_are_an_error(make_trainer, mixture):
    stream = IterableDataset.from_generator(lambda: iter(mixture))
    with pytest.raises(TypeError, match="eval dataset to be a `datasets.Dataset`, but found `IterableDataset`"):
        make_trainer(eval_dataset=stream)


def test_a_tokenizer_of_another_index_is_an_error(make_trainer, backbone_dir, sid_index, tokenizer):
    codes = sid_index.codes.copy()
    codes[0] = [0, 2, 1]
    other = TSRecTokenizer.from_backbone(backbone_dir, SIDIndex(sid_index.item_ids, codes))
    with pytest.raises(ValueError, match="belongs to the SID index .* but the tokenizer holds another"):
        make_trainer(processing_class=other)
    with pytest.raises(ValueError, match="Expected `processing_class`, the recommender's `TSRecTokenizer`"):
        make_trainer(processing_class=None)


def test_settings_of_trl_alone_are_an_error(model, tokenizer, mixture, tmp_path):
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match="`args` to be a `TSRecSFTConfig`, but found `SFTConfig`"):
        TSRecSFTTrainer(model, args, train_dataset=mixture, processing_class=tokenizer)


def test_a_collator_of_ones_own_knows_the_weights(make_trainer, tokenizer):
    with pytest.raises(ValueError, match=r"yours does not know task_weights=\{'title': 2.0\}"):
        make_trainer(data_collator=DataCollatorForTSAlign(tokenizer), task_weights={"title": 2.0})
    collator = DataCollatorForTSAlign(tokenizer, task_weights={"title": 2.0}, pad_to_multiple_of=8)
    trainer = make_trainer(data_collator=collator, task_weights={"title": 2.0})
    trainer.train()
    for entry in logs_of(trainer):
        assert total(entry, {"title": 2.0}) == pytest.approx(entry["loss"], abs=1e-4)


def test_resuming_equals_training_without_a_break(make_trainer, model, mixture, tmp_path):
    arguments = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
    start = tmp_path / "start"
    model.save_pretrained(start)
    whole = make_trainer(**arguments)
    whole.train()
    resumed = make_trainer(
        model=TSRecForCausalLM.from_pretrained(start), **{**arguments, "output_dir": str(tmp_path / "resumed")}
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    for (name, one), two in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two), name
    untrained = TSRecForCausalLM.from_pretrained(start)
    assert not torch.equal(untrained.get_input_embeddings().weight, resumed.model.get_input_embeddings().weight)
    # The logs go on as if nothing had happened, those of the tasks too.
    for before, after in zip(logs_of(whole)[2:], logs_of(resumed)[2:], strict=True):
        for name in before:
            if name == "loss" or "/" in name:
                assert after[name] == pytest.approx(before[name], abs=1e-6), name
        assert total(after) == pytest.approx(after["loss"], abs=1e-4)


def test_a_run_resumed_in_its_second_pass_takes_the_rows_by_length_that_are_left(make_trainer, model, tmp_path):
    start = tmp_path / "start"
    model.save_pretrained(start)
    arguments = {
        "max_steps": -1,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "train_sampling_strategy": "group_by_length",
        "save_strategy": "steps",
        "save_steps": 1,
    }
    whole = make_trainer(**arguments)
    whole.train()
    later = whole.state.max_steps // 2 + 1
    resumed = make_trainer(
        model=TSRecForCausalLM.from_pretrained(start), **{**arguments, "output_dir": str(tmp_path / "resumed")}
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{later}"))
    assert 1 < later < whole.state.max_steps == resumed.state.global_step
    for (name, one), two in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two), name
    orders = []
    sampler = whole._get_train_sampler()
    for passes in (0, 1, 1):
        whole.state.epoch = float(passes)
        orders.append(list(sampler))
    assert orders[0] != orders[1] == orders[2]


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("eval_loss/sequence", False),
        ("eval_valid_loss/title", False),
        ("eval_hits/mean_rank_of_target", False),
        ("eval_completions/invalid", False),
        ("eval_loss", False),
        ("eval_ndcg@10", True),
        ("eval_hits/share_of_groups", True),
    ],
)
def test_the_best_loss_of_a_task_is_the_lowest(tmp_path, metric, greater):
    settings = {"use_cpu": True, "metric_for_best_model": metric}
    assert TSRecSFTConfig(str(tmp_path), **settings).greater_is_better is greater
    assert TSRecSFTConfig(str(tmp_path), greater_is_better=True, **settings).greater_is_better


def test_what_would_ignore_a_setting_is_refused(make_trainer, model):
    with pytest.raises(ValueError, match="`compute_loss_func` beside"):
        make_trainer(task_weights={"title": 2.0}, compute_loss_func=lambda *args, **kwargs: 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    with pytest.raises(ValueError, match="the optimizer's weight_decay=0.01"):
        make_trainer(freeze_backbone=True, optimizers=(optimizer, None))


def test_the_grounding_stage_takes_over_what_suits_it_alone(model, tokenizer, semantics, tmp_path):
    """Settings of the long run: an evaluation at its start, its repository, and rows that are shorter than a text."""
    args = TSRecSFTConfig(
        str(tmp_path / "run"),
        use_cpu=True,
        bf16=False,
        eval_on_start=True,
        push_to_hub=True,
        max_length=48,
        report_to="none",
        disable_tqdm=True,
    )
    entries = [replace(entry, description="bolts and screws " * 40) for entry in semantics.values()]
    before = model.get_input_embeddings().weight.clone()
    ground_sid_rows(model, tokenizer, TokenSemantics(entries, semantics.fingerprint), args, num_epochs=1)
    assert not torch.equal(before, model.get_input_embeddings().weight)


def test_a_saved_model_loads_as_it_is(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    model = TSRecForCausalLM.from_pretrained(tmp_path / "saved")
    tokenizer = TSRecTokenizer.from_pretrained(tmp_path / "saved")
    for (name, one), two in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, two), name
    histories = [["hammer"], ["apple", "pear"]]
    assert model.recommend(tokenizer, histories, top_k=5, num_beams=7) == trainer.recommender.recommend(
        tokenizer, histories, top_k=5, num_beams=7
    )


def test_the_name_of_a_folder_takes_the_models_place(make_trainer, model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    # Half precision of the library's default would not be equal.
    trainer = make_trainer(
        model=str(tmp_path / "start"), processing_class=None, model_init_kwargs={"dtype": "float32"}
    )
    assert isinstance(trainer.model, TSRecForCausalLM) and isinstance(trainer.processing_class, TSRecTokenizer)
    trainer.train()
    other = make_trainer()
    other.train()
    for (name, one), two in zip(trainer.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_describe(make_trainer, model, caplog):
    trainer = make_trainer(task_weights={"title": 0.5}, max_steps=1)
    with caplog.at_level(logging.INFO, logger="tsrec_hf"):
        trainer.train()
    text = trainer.describe()
    assert text in [record.message for record in caplog.records]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"Trainable parameters: {parameters:,} of {parameters:,} (all)" in text
    rows = text.split("Rows per task: ")[1].split(";")[0]
    assert sorted(rows.strip("{}").split(", ")) == [
        "'alignment': 14",
        "'history_title': 6",
        "'sequence': 3",
        "'title': 16",
    ]
    assert "task weights: {'title': 0.5}" in text
    # SA-Init by default; the two names that users tell variants by.
    line = text.splitlines()[0]
    assert line.startswith("SID initialisation: ") and "'pooling': 'idf'" in line and "match_resize" in line


def test_describe_names_other_initialisations_and_parts(make_recommender, make_trainer):
    plain, tokenizer = make_recommender(semantics=None)
    text = make_trainer(model=plain, processing_class=tokenizer, freeze_backbone=True).describe()
    assert "SID initialisation: {'pooling': 'resize'}" in text
    parameters = sum(parameter.numel() for parameter in plain.parameters())
    # 7 tokens of width 16
    assert f"Trainable parameters: 112 of {parameters:,} (SID rows)" in text


def test_adapters_train_and_log_the_tasks(make_trainer, model, tokenizer):
    sids = [token_id for level in tokenizer.sid_token_ids for token_id in level]
    config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": sids})
    before = model.get_input_embeddings().weight.detach().clone()
    trainer = make_trainer(peft_config=config, task_weights=WEIGHTS)
    assert isinstance(trainer.recommender, TSRecForCausalLM)
    trainer.train()
    for entry in logs_of(trainer):
        assert total(entry, WEIGHTS) == pytest.approx(entry["loss"], abs=1e-4)
    assert torch.equal(trainer.recommender.get_input_embeddings().original_module.weight, before)


def test_adapters_and_sid_rows_are_an_error(make_trainer):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="`freeze_backbone=True` .* PEFT's adapters would not save"):
        make_trainer(peft_config=config, freeze_backbone=True)


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated:FutureWarning")
@pytest.mark.parametrize("smoothing", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}])
def test_other_losses_train_without_weights(make_trainer, mixture, smoothing):
    trainer = make_trainer(eval_dataset=mixture, **smoothing)
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in logs_of(trainer))
    assert trainer.evaluate()["eval_loss"] > 0


def test_batches_of_like_length(make_trainer):
    trainer = make_trainer(train_sampling_strategy="group_by_length")
    trainer.train()
    for entry in logs_of(trainer):
        assert total(entry) == pytest.approx(entry["loss"], abs=1e-4)


def test_weights_of_tasks_that_do_not_exist_are_an_error(make_trainer):
    with pytest.raises(ValueError, match=r"weights for the tasks \(.*'sequence'.*but found \['titles'\]"):
        make_trainer(task_weights={"titles": 1.0})


def test_tasks_of_ones_own_have_their_loss_and_weight(make_trainer, model, mixture):
    own = [{**row, "task": "repurchase" if row["task"] == "title" else row["task"]} for row in mixture.to_list()]
    rows = Dataset.from_list(own)
    trainer = make_trainer(train_dataset=rows, eval_dataset=rows, task_weights={"repurchase": 0.5})
    metrics, expected = trainer.evaluate(), make_trainer(eval_dataset=mixture, task_weights={"title": 0.5}).evaluate()
    assert metrics["eval_loss/repurchase"] == pytest.approx(expected["eval_loss/title"], rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)
    assert "eval_loss/title" not in metrics
    trainer.train()
    assert any("loss/repurchase" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("with_users", [True, False])
def test_interactions_alone_are_evaluated(make_trainer, dataset, tokenizer, with_users):
    interactions = dataset.valid if with_users else dataset.valid.remove_columns("user_id")
    trainer = make_trainer(eval_interactions=interactions, eval_strategy="steps", eval_steps=1, max_steps=1)
    trainer.train()
    metrics = trainer.evaluate()
    rows = build_sequence_rows(dataset.valid, tokenizer, mode="window")
    assert sorted(trainer.eval_dataset["input_ids"]) == sorted(rows["input_ids"])
    assert metrics["eval_loss"] > 0 and "eval_ndcg@10" in metrics


class CategoryTask:
    """A task from outside the package: SID -> first word of the title."""

    name, weight = "category", 1.0

    def rows(self, dataset, split, tokenizer):
        prompts = PromptBuilder(tokenizer)
        pairs = [
            (f"{prompts.sid(item)} is a", prompts.text_answer(title.split()[0]))
            for item, title in zip(dataset.items["item_id"], dataset.items["title"])
        ]
        return Dataset.from_dict({"prompt": [prompt for prompt, _ in pairs], "completion": [end for _, end in pairs]})


@pytest.mark.parametrize("weights", [None, {"category": 2.0}])
def test_a_task_of_ones_own_trains_and_its_loss_is_logged(
    make_trainer, dataset, semantics, tokenizer, datasets_cache, weights
):
    rows = build_sft_mixture(dataset, semantics, tokenizer, tasks=["sequence", CategoryTask()])
    trainer = make_trainer(train_dataset=rows, task_weights=weights, per_device_train_batch_size=len(rows))
    trainer.train()
    for entry in logs_of(trainer):
        parts = {name: (entry[f"share/{name}"], entry[f"loss/{name}"]) for name in ("sequence", "category")}
        assert sum(share for share, _ in parts.values()) == pytest.approx(1.0, abs=1e-5)
        weighted = sum((weights or {}).get(name, 1.0) * share * loss for name, (share, loss) in parts.items())
        assert entry["loss"] == pytest.approx(weighted, rel=1e-3)
