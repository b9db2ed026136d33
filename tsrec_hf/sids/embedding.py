"""Text embeddings from a language model's hidden states, so that the recommender's backbone can embed the items."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.plain_text_tsrec import plain_texts

from .progress import progress_bar


@checks_types
def mean_pooled_embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int = 32,
    max_length: int = 128,
) -> np.ndarray:
    r"""
    Embed texts by mean pooling: a model's last hidden states, averaged over each text's tokens, at unit length.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model from `AutoModel` or `AutoModelForCausalLM`. A language model head is not run.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. It needs no padding token.
        texts (`Sequence[str]`):
            Texts with at least one token each.
        batch_size (`int`, *optional*, defaults to `32`):
            Texts in one forward pass. Texts of similar length share a batch, the longest first.
        max_length (`int`, *optional*, defaults to `128`):
            Number of tokens that a text is truncated to.

    Returns:
        `np.ndarray` of shape `(texts, hidden)`: float32 rows of norm 1, in the order of `texts`.

    Example:

    ```python
    >>> from tsrec_hf.sids import mean_pooled_embeddings

    >>> embeddings = mean_pooled_embeddings(model, tokenizer, ["steel drill bit", "drill", "steel drill bit"])
    >>> embeddings.shape[0], str(embeddings.dtype)
    (3, 'float32')
    >>> bool(abs(embeddings[0] - embeddings[2]).max() < 1e-6)
    True
    ```
    """
    if not texts:
        raise ValueError("Expected at least one text, found none. Pass one text an item.")
    input_ids = [
        torch.tensor(ids, dtype=torch.long)
        for ids in tokenizer(plain_texts(tokenizer, texts), truncation=True, max_length=max_length)["input_ids"]
    ]
    lengths = np.array([len(ids) for ids in input_ids])
    if lengths.min() == 0:
        raise ValueError(
            f"Expected at least one token in every text, found none in text {int(lengths.argmin())} "
            f"({texts[int(lengths.argmin())]!r}). Give items without text a placeholder such as their id."
        )
    order = np.argsort(-lengths, kind="stable")
    pooled: list[np.ndarray] = []
    was_training = model.training
    model.eval()
    for start in progress_bar(range(0, len(texts), batch_size), desc="Embedding texts", unit="batch"):
        rows = order[start : start + batch_size]
        means = _mean_hidden_states(model, [input_ids[row] for row in rows])
        pooled.append(torch.nn.functional.normalize(means, dim=-1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(pooled)[np.argsort(order)]  # back from the order of the batches


@torch.inference_mode()
def _mean_hidden_states(model: PreTrainedModel, input_ids: list[torch.Tensor]) -> torch.Tensor:
    """Average the last hidden states over each row's tokens, float32 of shape `(rows, hidden)`."""
    # Padded on the right whatever the tokenizer's side: default position ids are right then, the mask hides padding.
    padded = pad_sequence(input_ids, batch_first=True, padding_value=0).to(model.device)  # (rows, tokens)
    mask = pad_sequence([torch.ones_like(ids) for ids in input_ids], batch_first=True).to(model.device)
    decoded = model.base_model(input_ids=padded, attention_mask=mask)
    hidden = decoded.last_hidden_state.float()  # (rows, tokens, hidden)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
