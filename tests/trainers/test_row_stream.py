"""Training on streams: resumed in the middle of a pass, shared by processes, or refused."""

from itertools import islice

import pytest
import torch
from datasets import Dataset, IterableDataset

from tsrec_hf.data import build_sequence_rows, build_sft_mixture, build_title_rows
from tsrec_hf.models import TSRecForCausalLM
from tsrec_hf.trainers import TSRecSFTConfig, TSRecSFTTrainer
from tsrec_hf.trainers.row_stream import RepeatedRows


@pytest.fixture
def mixture(dataset, semantics, tokenizer, datasets_cache):
    return build_sft_mixture(dataset, semantics, tokenizer)


@pytest.fixture
def make_trainer(model, tokenizer, mixture, tmp_path):
    model.save_pretrained(tmp_path / "start")

    def make(rows, out="out", **arguments):
        defaults = {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.01,
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        args = TSRecSFTConfig(str(tmp_path / out), **{**defaults, **arguments})
        start = TSRecForCausalLM.from_pretrained(tmp_path / "start")
        return TSRecSFTTrainer(start, args, train_dataset=rows, processing_class=tokenizer)

    return make


def weights_of(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.recommender.parameters()])


def streamed(rows, num_shards=3):
    return rows.to_iterable_dataset(num_shards).shuffle(seed=5, buffer_size=7)


# 39 rows are six steps and a half of six rows: the second case resumes in the second pass.
@pytest.mark.parametrize(("steps", "accumulation"), [(6, 1), (16, 3)], ids=["first pass", "second pass"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_with_equal_weights(make_trainer, mixture, tmp_path, steps, accumulation, workers):
    settings = {"max_steps": steps, "gradient_accumulation_steps": accumulation, "dataloader_num_workers": workers}
    whole = make_trainer(streamed(mixture), "whole", save_steps=steps // 2, **settings)
    whole.train()
    halfway = tmp_path / "whole" / f"checkpoint-{steps // 2}"
    resumed = make_trainer(streamed(mixture), "resumed", save_strategy="no", **settings)
    before = weights_of(resumed)
    resumed.train(resume_from_checkpoint=str(halfway))
    assert resumed.state.global_step == steps
    assert not torch.equal(before, weights_of(resumed))
    assert torch.equal(weights_of(resumed), weights_of(whole))
    # Half of the steps alone end elsewhere.
    at_half = TSRecForCausalLM.from_pretrained(halfway)
    assert not torch.equal(torch.cat([p.detach().flatten() for p in at_half.parameters()]), weights_of(whole))


def test_a_stream_trains_as_its_rows_in_their_order(make_trainer, mixture):
    stream = make_trainer(mixture.to_iterable_dataset(), save_strategy="no")
    stream.train()
    rows = make_trainer(mixture, save_strategy="no", train_sampling_strategy="sequential")
    rows.train()
    assert torch.equal(weights_of(stream), weights_of(rows))
    assert "a stream of 1 shards" in stream.describe()


@pytest.mark.parametrize("num_shards", [4, 3], ids=["own shards", "own rows"])
def test_processes_share_the_rows(mixture, num_shards):
    rows = mixture.add_column("number", list(range(len(mixture))))
    stream = rows.to_iterable_dataset(num_shards).shuffle(seed=0, buffer_size=5)
    shares = [RepeatedRows(stream, rank, world_size=2) for rank in range(2)]
    one, other = ([row["number"] for row in share.rows] for share in shares)
    assert sorted(one + other) == list(range(39)) and abs(len(one) - len(other)) < 2
    # Ten rows a shard: nobody reads another's.
    assert ({number // 10 for number in one} & {number // 10 for number in other} == set()) == (num_shards == 4)


def test_each_pass_has_an_order_of_its_own(mixture):
    stream = streamed(mixture.add_column("number", list(range(len(mixture)))))
    drawn = [row["number"] for row in islice(RepeatedRows(stream), 78)]
    assert sorted(drawn[:39]) == sorted(drawn[39:]) == list(range(39))
    assert drawn[:39] != drawn[39:]
    assert [row["number"] for row in islice(RepeatedRows(stream), 78)] == drawn


def test_long_rows_of_a_stream_lose_their_oldest_items(make_trainer, dataset, tokenizer):
    rows = build_sequence_rows(dataset.train, tokenizer)
    of_rows = make_trainer(rows, max_length=12)
    of_stream = make_trainer(rows.to_iterable_dataset(), max_length=12)
    assert list(of_stream.train_dataset) == list(of_rows.train_dataset)
    assert max(len(row["input_ids"]) for row in of_stream.train_dataset) <= 12


def test_what_acts_at_the_end_of_a_stream_is_told(make_trainer, mixture, caplog):
    with caplog.at_level("WARNING", logger="tsrec_hf"):
        make_trainer(mixture.to_iterable_dataset(), save_strategy="epoch", max_steps=3)
    assert 'one epoch of max_steps=3: save_strategy="epoch" acts once, at the end. Set save_strategy="steps"' in (
        caplog.text
    )


def test_what_cannot_be_trained_on_is_refused(make_trainer, mixture, dataset, tokenizer):
    stream = mixture.to_iterable_dataset()
    with pytest.raises(ValueError, match=r"Expected `max_steps`.* found max_steps=-1. Set it to .*rows x passes / 2"):
        make_trainer(stream, max_steps=-1)
    with pytest.raises(ValueError, match=r"tokenised rows .* found the columns \['prompt', 'completion', 'task'\]"):
        make_trainer(build_title_rows(dataset.items, tokenizer).to_iterable_dataset())
    with pytest.raises(ValueError, match="a stream of training rows, but it has none"):
        make_trainer(IterableDataset.from_generator(lambda: iter(())))
    with pytest.raises(ValueError, match="shuffle_dataset=True.*buffer_size"):
        make_trainer(stream, shuffle_dataset=True)
    unlabelled = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, -100]], "task": ["sequence"]})
    with pytest.raises(ValueError, match="every label of the first 1 rows of the stream is -100"):
        make_trainer(unlabelled.to_iterable_dataset())
    with pytest.raises(ValueError, match="this one's share has none"):
        next(iter(RepeatedRows(mixture.select([0]).to_iterable_dataset(), rank=1, world_size=2)))
