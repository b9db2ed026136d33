from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tsrec_hf.sids import mean_pooled_embeddings


WORDS = ["[UNK]", "steel", "drill", "bit", "glove", "tape"]


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """One token a word and no padding token."""
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_dropout=0.5,
        )
    )


class TableModel(torch.nn.Module):
    """Hidden state of a token = its row in a table, whatever stands around it."""

    device = torch.device("cpu")
    table = torch.tensor([[9.0, 9.0], [3.0, 0.0], [0.0, 4.0], [0.0, 2.0], [0.0, 0.0], [1.0, 1.0]])

    @property
    def base_model(self):
        return lambda input_ids, attention_mask: SimpleNamespace(last_hidden_state=self.table[input_ids])


def test_mean_worked_by_hand(words: PreTrainedTokenizerFast) -> None:
    # steel drill: ((3, 0) + (0, 4)) / 2 = (1.5, 2), of norm 2.5 -> (0.6, 0.8). Padding (row 0) must not count.
    # bit: (0, 2) -> (0, 1).   drill bit tape: (1, 7) / 3, of norm sqrt(50) / 3 -> (1, 7) / sqrt(50).
    embeddings = mean_pooled_embeddings(TableModel(), words, ["bit", "steel drill", "drill bit tape"])
    expected = np.array([[0, 1], [0.6, 0.8], [1 / 50**0.5, 7 / 50**0.5]])
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_batching_and_order_do_not_matter(llama, words, padding_side: str) -> None:
    words.padding_side = padding_side
    texts = ["drill", "steel drill bit glove", "tape", "glove tape", "bit bit bit"]
    together = mean_pooled_embeddings(llama, words, texts, batch_size=3)
    apart = np.concatenate([mean_pooled_embeddings(llama, words, [text]) for text in texts])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


def test_causal_model_and_its_decoder_agree_with_their_hidden_states(llama, words) -> None:
    llama.eval()
    ids = torch.tensor([[WORDS.index("steel"), WORDS.index("drill")]])
    with torch.no_grad():
        mean = llama(ids, output_hidden_states=True).hidden_states[-1].mean(dim=1)[0]
    for model in (llama, llama.model):
        embedding = mean_pooled_embeddings(model, words, ["steel drill"])[0]
        np.testing.assert_allclose(embedding, (mean / mean.norm()).numpy(), atol=1e-5)


def test_max_length_cuts_the_end(llama, words) -> None:
    cut = mean_pooled_embeddings(llama, words, ["steel drill bit glove tape"], max_length=2)
    np.testing.assert_allclose(cut, mean_pooled_embeddings(llama, words, ["steel drill"]), atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(llama, words, training: bool) -> None:
    llama.train(training)
    first, second = (mean_pooled_embeddings(llama, words, ["steel drill bit"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert llama.training is training


def test_texts_without_tokens_are_refused(llama, words) -> None:
    with pytest.raises(ValueError, match=r"found none in text 1 \(' '\)"):
        mean_pooled_embeddings(llama, words, ["steel", " "])
    with pytest.raises(ValueError, match="at least one text, found none"):
        mean_pooled_embeddings(llama, words, [])
