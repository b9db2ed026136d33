import copy

import pytest
import torch
from transformers import BertConfig
from trl.trainer.utils import add_fused_lm_head

from tsrec_hf.data import DataCollatorForTSAlign, build_sequence_rows
from tsrec_hf.trainers.cpu_head import add_cpu_lm_head, check_lm_head


OUTPUTS = ("log_probs", "entropy", "is_top1")


@pytest.fixture
def batch(dataset, tokenizer):
    return DataCollatorForTSAlign(tokenizer)(
        list(build_sequence_rows(dataset.train, tokenizer).remove_columns("task"))
    )


def both_heads(model):
    """The same model with TRL's own fused head, and with ours."""
    theirs = copy.deepcopy(model)
    add_fused_lm_head(theirs, outputs=OUTPUTS)
    ours = copy.deepcopy(model)
    add_fused_lm_head(ours, outputs=OUTPUTS)
    add_cpu_lm_head(ours)
    assert ours.forward.__code__.co_filename.endswith("cpu_head.py")
    return theirs, ours


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("num_items", [None, 40])
def test_equals_trls_fused_head(make_recommender, batch, kind, tied, num_items):
    model, _ = make_recommender(kind, tied=tied)
    theirs, ours = both_heads(model)
    expected, found = (
        head(**batch, fused_lm_head=True, num_items_in_batch=num_items, use_cache=False) for head in (theirs, ours)
    )
    for name in ("loss", "log_probs", "entropy"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.is_top1.bool(), expected.is_top1.bool())
    assert torch.equal(found.label_mask, expected.label_mask)
    assert int(found.label_mask.sum()) == 6 * 3
    expected.loss.backward()
    found.loss.backward()
    for name, ours_, theirs_ in zip(
        dict(ours.named_parameters()), ours.parameters(), theirs.parameters(), strict=True
    ):
        torch.testing.assert_close(ours_.grad, theirs_.grad, rtol=1e-5, atol=1e-5, msg=name)
    assert ours.get_input_embeddings().weight.grad.abs().sum() > 0


def test_equals_the_plain_loss_and_leaves_the_plain_forward(model, batch):
    plain = model(**batch)
    _, ours = both_heads(model)
    assert torch.equal(ours(**batch).logits, plain.logits)
    torch.testing.assert_close(ours(**batch, fused_lm_head=True).loss, plain.loss, rtol=1e-5, atol=1e-5)


def test_logits_are_in_float32_under_autocast(model, batch):
    """With the decoder in float32, whose outputs autocast would round before the head."""
    _, ours = both_heads(model)
    expected = ours(**batch, fused_lm_head=True)
    hidden = ours.base_model(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    ours.base_model.forward = lambda *args, **kwargs: hidden
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(**batch, fused_lm_head=True)
    assert torch.equal(found.log_probs, expected.log_probs)


def test_a_batch_without_labels_has_no_loss_and_no_gradient(model, batch):
    _, ours = both_heads(model)
    batch["labels"][:] = -100
    output = ours(**batch, fused_lm_head=True)
    assert output.loss.item() == 0 and output.log_probs.shape == (3, 16)
    output.loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in ours.parameters())


def test_backbones_that_change_their_logits_keep_trls_head(make_recommender, batch):
    model, _ = make_recommender("gemma3")
    model.config.get_text_config().final_logit_softcapping = 5.0
    add_fused_lm_head(model, outputs=OUTPUTS)
    trls = model.forward
    add_cpu_lm_head(model)
    assert model.forward == trls
    assert model(**batch, fused_lm_head=True).loss.isfinite()


class TestPlainHead:
    def heads(self, model):
        add_fused_lm_head(model, outputs=OUTPUTS)
        fused = model.forward
        check_lm_head(model)
        return fused, model.forward

    def test_is_not_taken_where_the_fused_one_is_right(self, make_recommender):
        for kind in ("llama", "gpt2", "gemma3"):
            fused, found = self.heads(make_recommender(kind)[0])
            assert found is fused or found == fused

    def test_scores_the_logits_of_heads_of_several_layers(self, make_recommender, save_backbone, batch, monkeypatch):
        def bert(vocab, tied):
            sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
            return BertConfig(vocab_size=vocab, is_decoder=True, pad_token_id=3, **sizes)

        monkeypatch.setitem(save_backbone.__globals__["BACKBONES"], "bert", bert)
        model, _ = make_recommender("bert")
        model.eval()
        expected = model(**batch).loss
        fused, found = self.heads(model)
        assert abs(fused(**batch, fused_lm_head=True).loss - expected) > 1e-2
        output = found(**batch, fused_lm_head=True)
        torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-5)
        assert int(output.label_mask.sum()) == 6 * 3 and output.log_probs.shape == output.label_mask.shape
