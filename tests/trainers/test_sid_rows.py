import pytest
import torch
from datasets import Dataset

from tsrec_hf.data import build_alignment_rows, tokenize_rows
from tsrec_hf.trainers import TSRecSFTConfig, TSRecSFTTrainer
from tsrec_hf.trainers.sid_rows import count_sid_row_parameters, sid_rows_only


def sid_rows(tokenizer):
    return torch.tensor([token_id for level in tokenizer.sid_token_ids for token_id in level])


def train(model, tokenizer, semantics, folder, **arguments):
    """Trains on TS-Align, in which every SID token stands once before and once behind its description."""
    args = TSRecSFTConfig(
        str(folder),
        **{
            "max_steps": 3,
            "per_device_train_batch_size": 14,
            "report_to": "none",
            "bf16": False,
            "learning_rate": 0.05,
            **arguments,
        },
    )
    rows = Dataset.from_list(tokenize_rows(build_alignment_rows(semantics, tokenizer), tokenizer))
    trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
def test_all_but_the_sid_rows_stay_bit_for_bit(make_recommender, semantics, tmp_path, kind, tied):
    # Padding rows of the vocabulary, some of which become SID rows, are no SID rows by themselves.
    model, tokenizer = make_recommender(kind, tied=tied, padded_rows=20)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, tokenizer, semantics, tmp_path / "out", freeze_backbone=True)
    matrices = [model.get_input_embeddings().weight] + ([] if tied else [model.get_output_embeddings().weight])
    rows = sid_rows(tokenizer)
    others = torch.ones(len(matrices[0]), dtype=torch.bool)
    others[rows] = False
    assert int((~others).sum()) == 7 and int(others.sum()) > 7
    trained = 0
    for name, parameter in model.named_parameters():
        if any(parameter is matrix for matrix in matrices):
            assert torch.equal(parameter[others], before[name][others]), name
            assert bool((parameter[rows] != before[name][rows]).any(dim=1).all()), name
            trained += 1
        else:
            assert torch.equal(parameter, before[name]), name
    assert trained == len(matrices)


def test_it_learns(model, tokenizer, semantics, tmp_path):
    trainer = train(model, tokenizer, semantics, tmp_path, freeze_backbone=True, max_steps=10, logging_steps=1)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1


def test_it_is_undone_after_training(model, tokenizer, semantics, tmp_path):
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(flags.values())
    train(model, tokenizer, semantics, tmp_path / "first", freeze_backbone=True, max_steps=1)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, tokenizer, semantics, tmp_path / "second", max_steps=1)
    assert not any(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_flags_come_back_after_an_error_and_as_they_were(model, tokenizer):
    frozen = next(model.backbone.base_model.layers[0].parameters())
    frozen.requires_grad_(False)
    with pytest.raises(RuntimeError, match="stop"):
        with sid_rows_only(model, tokenizer):
            assert [name for name, p in model.named_parameters() if p.requires_grad] == [
                "backbone.model.embed_tokens.weight"
            ]
            raise RuntimeError("stop")
    assert [p.requires_grad for p in model.parameters()].count(False) == 1 and not frozen.requires_grad
    model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
    assert model.get_input_embeddings().weight.grad[5].any()


@pytest.mark.parametrize(("tied", "matrices"), [(True, 1), (False, 2)])
def test_counts_the_parameters_of_the_sid_rows(make_recommender, tied, matrices):
    model, tokenizer = make_recommender(tied=tied)
    # 2 + 3 + 2 tokens of width 16
    assert count_sid_row_parameters(model, tokenizer) == 7 * 16 * matrices
