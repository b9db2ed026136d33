import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from tsrec_hf.data import BUILT_IN_TASKS, DataCollatorForTSAlign, build_sequence_rows, build_sft_mixture


@pytest.fixture
def mixture(dataset, semantics, tokenizer, datasets_cache):
    return build_sft_mixture(dataset, semantics, tokenizer)


@pytest.fixture
def three_tasks(mixture):
    """A session row, a title row and an alignment row, of three lengths."""
    rows = {}
    for row in mixture:
        rows.setdefault(row["task"], row)
    rows = [rows["sequence"], rows["title"], rows["alignment"]]
    assert len({len(row["input_ids"]) for row in rows}) == 3
    return rows


def test_pads_on_the_right_by_hand(tokenizer):
    rows = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "task": "title"},
        {"input_ids": [8, 9, 5, 6, 7], "labels": [-100, -100, 5, -100, 7], "task": "sequence"},
    ]
    batch = DataCollatorForTSAlign(tokenizer, task_weights={"title": 0.5})(rows)
    pad = tokenizer.pad_token_id
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[5, 6, 7, pad, pad], [8, 9, 5, 6, 7]],
        "attention_mask": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
        "labels": [[-100, 6, 7, -100, -100], [-100, -100, 5, -100, 7]],
        "task_ids": [BUILT_IN_TASKS.index("title"), BUILT_IN_TASKS.index("sequence")],
        "loss_weights": [0.5, 1.0],
    }
    assert {values.dtype for name, values in batch.items() if name != "loss_weights"} == {torch.int64}


@pytest.mark.parametrize(("multiple", "width"), [(None, 5), (1, 5), (4, 8), (5, 5), (64, 64)])
def test_pads_to_a_multiple(tokenizer, multiple, width):
    rows = [{"input_ids": [5] * length, "labels": [5] * length, "task": "title"} for length in (5, 2)]
    batch = DataCollatorForTSAlign(tokenizer, pad_to_multiple_of=multiple)(rows)
    for name, padding in (("input_ids", tokenizer.pad_token_id), ("attention_mask", 0), ("labels", -100)):
        assert batch[name].shape == (2, width)
        assert (batch[name][0, 5:] == padding).all() and (batch[name][1, 2:] == padding).all()
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 2]


def test_the_padding_token_may_be_a_label(tokenizer):
    """Where a tokenizer pads with its end token, ends of answers are still labels and still attended to."""
    tokenizer.pad_token = tokenizer.eos_token
    end = tokenizer.eos_token_id
    rows = [{"input_ids": [5, end], "labels": [-100, end]}, {"input_ids": [5, 6, end], "labels": [-100, 6, end]}]
    batch = DataCollatorForTSAlign(tokenizer)(rows)
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, end, -100], [-100, 6, end]]


def test_rows_without_a_task_give_what_every_model_takes(tokenizer):
    batch = DataCollatorForTSAlign(tokenizer)([{"input_ids": [5, 6], "labels": [-100, 6]}])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_a_padded_batch_has_the_losses_of_its_rows_one_by_one(three_tasks, make_recommender, kind):
    model, tokenizer = make_recommender(kind)
    collator = DataCollatorForTSAlign(tokenizer, pad_to_multiple_of=16)

    def summed(rows):
        batch = collator(rows)
        with torch.no_grad():
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none"
        )
        return losses.sum(dim=1)

    together = summed(three_tasks)
    # Answers of nine SID tokens or less, of words and an end token, and of words or one SID token.
    alone = torch.cat([summed([row]) for row in three_tasks])
    assert (alone > 1).all()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_refuses_what_has_no_loss(tokenizer):
    collator = DataCollatorForTSAlign(tokenizer)
    ignored = {"input_ids": [5, 6], "labels": [-100, -100], "task": "title"}
    labelled = {"input_ids": [5, 6], "labels": [-100, 6], "task": "title"}
    with pytest.raises(ValueError, match="Every label of this batch of 2 rows is ignored"):
        collator([ignored, ignored])
    # The first token is never predicted, so its label alone is no loss.
    with pytest.raises(ValueError, match="Every label of this batch of 1 rows is ignored"):
        collator([{"input_ids": [5, 6], "labels": [5, -100]}])
    assert collator([ignored, labelled])["labels"].shape == (2, 2)


def test_refuses_rows_it_cannot_read(tokenizer):
    collator = DataCollatorForTSAlign(tokenizer)
    with pytest.raises(
        ValueError, match=r"rows with `labels` .* the columns \['input_ids', 'task'\]. Build rows with"
    ):
        collator([{"input_ids": [5, 6], "task": "title"}])
    with pytest.raises(ValueError, match="`labels` as long as their `input_ids`"):
        collator([{"input_ids": [5, 6], "labels": [6]}])
    for task in ("titles", None):
        with pytest.raises(ValueError, match=f"rows of the tasks .* but found {task!r}"):
            collator([{"input_ids": [5, 6], "labels": [5, 6], "task": task}])
    with pytest.raises(ValueError, match="rows of the tasks .* but found None"):
        collator([{"input_ids": [5, 6], "labels": [5, 6], "task": "title"}, {"input_ids": [5, 6], "labels": [5, 6]}])


def test_refuses_weights_of_unknown_tasks_and_tokenizers_without_padding(tokenizer):
    with pytest.raises(ValueError, match=r"weights for the tasks .* but found \['titles'\]"):
        DataCollatorForTSAlign(tokenizer, task_weights={"titles": 2})
    with pytest.raises(ValueError, match="Expected finite `task_weights` of at least 0"):
        DataCollatorForTSAlign(tokenizer, task_weights={"title": -1.0})
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="a tokenizer with a padding token"):
        DataCollatorForTSAlign(tokenizer)


def test_works_with_the_stock_trainer(mixture, model, tokenizer, tmp_path):
    args = TrainingArguments(str(tmp_path), max_steps=2, logging_steps=1, report_to="none", use_cpu=True)
    trainer = Trainer(model, args, data_collator=DataCollatorForTSAlign(tokenizer), train_dataset=mixture)
    before = model.get_input_embeddings().weight.detach().clone()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(1 < loss < 20 for loss in losses)
    assert not torch.equal(model.get_input_embeddings().weight, before)


def test_works_with_the_stock_sft_trainer(mixture, dataset, model, tokenizer, tmp_path):
    args = SFTConfig(str(tmp_path), max_steps=2, logging_steps=1, report_to="none", use_cpu=True, bf16=False)
    trainer = SFTTrainer(
        model,
        args,
        data_collator=DataCollatorForTSAlign(tokenizer),
        train_dataset=mixture,
        eval_dataset=build_sequence_rows(dataset.valid, tokenizer),
        processing_class=tokenizer,
    )
    before = model.get_input_embeddings().weight.detach().clone()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(1 < loss < 20 for loss in losses)
    assert not torch.equal(model.get_input_embeddings().weight, before)
    assert trainer.evaluate()["eval_loss"] > 0


def test_rows_from_arrow_and_from_lists_are_alike(dataset, tokenizer):
    rows = build_sequence_rows(dataset.train, tokenizer)
    collator = DataCollatorForTSAlign(tokenizer)
    plain = collator(rows.to_list())
    for form in ("torch", "numpy"):
        batch = collator(list(Dataset.from_list(rows.to_list()).with_format(form)))
        assert all(torch.equal(batch[name], plain[name]) for name in plain)


def test_task_names_number_the_tasks(tokenizer):
    rows = [{"input_ids": [5, 6], "labels": [-100, 6], "task": task} for task in ("brands", "sequence", "brands")]
    collator = DataCollatorForTSAlign(tokenizer, task_weights={"brands": 3}, task_names=["sequence", "brands"])
    assert collator.task_names == ("sequence", "brands")
    batch = collator(rows)
    assert batch["task_ids"].tolist() == [1, 0, 1] and batch["loss_weights"].tolist() == [3.0, 1.0, 3.0]
    with pytest.raises(ValueError, match=r"rows of the tasks .* but found 'brands'. Add your own tasks"):
        DataCollatorForTSAlign(tokenizer)(rows)
    with pytest.raises(ValueError, match=r"weights for the tasks \('brands',\), but found \['title'\]"):
        DataCollatorForTSAlign(tokenizer, task_weights={"title": 1}, task_names=["brands"])
    with pytest.raises(ValueError, match="`task_names` as a list of different names, but found"):
        DataCollatorForTSAlign(tokenizer, task_names=["brands", "brands"])
    with pytest.raises(TypeError, match="`task_names` of `DataCollatorForTSAlign` as a list .* found 'brands'"):
        DataCollatorForTSAlign(tokenizer, task_names="brands")
