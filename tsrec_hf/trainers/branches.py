"""
Log-probabilities of a prompt's completions from one forward pass.

The completions of a group differ only in a few tokens behind the same prompt. They stand behind it in one row, as the
branches of a tree: each attends to the prompt and to itself, under the mask that decoding uses. The prompt then goes
through the model once instead of once per completion, forward and backward, and gradients add up over the branches.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from tsrec_hf.models import SIDTrie
from tsrec_hf.models.search_tsrec import catalogue_log_probs
from tsrec_hf.models.tree_passes_tsrec import tree_attention_mask


@dataclass
class CompletionScores:
    """
    What [`score_completions`] returns, each a `torch.Tensor` of shape `(completions, levels)`.

    Attributes:
        log_probs: Log-probability of each token.
        entropies: Entropy of the distribution each was taken from.
        legal_entropies: Entropy over the tokens that continue a SID that exists. Without gradient.
    """

    log_probs: torch.Tensor
    entropies: torch.Tensor
    legal_entropies: torch.Tensor


class LegalTokens:
    """
    The tokens that continue prefixes of SIDs.

    Args:
        trie ([`SIDTrie`]):
            The catalogue's SIDs, on the model's device.
        sid_token_ids (`list[list[int]]`):
            For each level, the token id of every code.
    """

    def __init__(self, trie: SIDTrie, sid_token_ids: list[list[int]]):
        self.trie = trie
        self.token_ids = [torch.tensor(ids, device=trie.device) for ids in sid_token_ids]

    def along(self, completion_ids: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """
        For each level, what could have stood there instead.

        Args:
            completion_ids (`torch.Tensor` of shape `(completions, levels)`):
                Tokens of SIDs that exist.

        Returns:
            `list` with, for each level: the legal tokens `(completions, width)`, which of these are real, and the
            place of the chosen one `(completions,)`.

        Raises:
            `ValueError`: a completion that is no SID of the catalogue.
        """
        nodes = completion_ids.new_zeros(len(completion_ids))
        levels = []
        for depth, token_ids in enumerate(self.token_ids):
            children, codes, legal = self.trie.children(nodes, depth)
            tokens = token_ids[codes]
            matches = (tokens == completion_ids[:, depth, None]) & legal
            chosen = matches.int().argmax(-1)
            if not matches.any(-1).all():
                row = int((~matches.any(-1)).nonzero()[0])
                raise ValueError(
                    f"Expected completions that are SIDs of the catalogue, but completion {row} has token "
                    f"{int(completion_ids[row, depth])} at level {depth}, which continues none."
                )
            levels.append((tokens, legal, chosen))
            nodes = children.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        return levels


def score_completions(
    model: nn.Module,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    legal_tokens: LegalTokens,
    scoring: str = "vocabulary",
    temperature: float = 1.0,
    entropy_gradient: bool = False,
) -> CompletionScores:
    """
    Scores groups of completions, each group behind one copy of its prompt.

    Args:
        model (`nn.Module`):
            The recommender, as the trainer wrapped it.
        config ([`~transformers.PreTrainedConfig`]):
            Its backbone's text configuration.
        dtype (`torch.dtype`):
            Type of its weights.
        prompt_ids (`torch.Tensor` of shape `(prompts, length)`):
            Prompts, padded on the left.
        prompt_mask (`torch.Tensor` of shape `(prompts, length)`):
            1 for the prompts' tokens, 0 for padding.
        completion_ids (`torch.Tensor` of shape `(prompts, group, levels)`):
            Their completions.
        legal_tokens ([`LegalTokens`]):
            The catalogue.
        scoring (`str`, *optional*, defaults to `"vocabulary"`):
            `"vocabulary"`, or `"catalogue"` for probabilities over legal tokens.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits.
        entropy_gradient (`bool`, *optional*, defaults to `False`):
            Whether entropies carry a gradient.

    Returns:
        [`CompletionScores`], groups in a row.
    """
    num_prompts, group, levels = completion_ids.shape
    inner = levels - 1
    device = prompt_ids.device
    # The last token of a completion predicts nothing: it is not read.
    input_ids = torch.cat([prompt_ids, completion_ids[:, :, :inner].flatten(1)], dim=1)
    visible, positions = _tree_of_branches(prompt_mask.bool(), group, inner)
    mask = tree_attention_mask(visible, positions, positions, config, dtype)
    logits = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        logits_to_keep=1 + group * inner,
        use_cache=False,
    ).logits
    logits = logits.float() / temperature  # (prompts, 1 + group * inner, vocabulary)

    # Where among these each token of a completion is predicted: the prompt's end, then the tokens of its own branch.
    branch = 1 + torch.arange(group * inner, device=device).view(group, inner)
    places = torch.cat([branch.new_zeros(group, 1), branch], dim=1)  # (group, levels)
    rows = torch.arange(num_prompts, device=device).view(-1, 1).expand(-1, group).flatten()
    log_normalizers = logits.logsumexp(-1)[:, places].flatten(0, 1) if scoring == "vocabulary" else None
    log_probs, legal_entropies = [], []
    for level, (tokens, legal, chosen) in enumerate(legal_tokens.along(completion_ids.flatten(0, 1))):
        columns = places[:, level].repeat(num_prompts)
        picked = logits[rows.unsqueeze(-1), columns.unsqueeze(-1), tokens]  # (completions, width)
        legal_log_probs = catalogue_log_probs(picked, legal)
        chosen = chosen.unsqueeze(-1)
        if scoring == "vocabulary":
            assert log_normalizers is not None
            log_probs.append(picked.gather(-1, chosen).squeeze(-1) - log_normalizers[:, level])
        else:
            log_probs.append(legal_log_probs.gather(-1, chosen).squeeze(-1))
        with torch.set_grad_enabled(entropy_gradient and scoring == "catalogue" and torch.is_grad_enabled()):
            finite = legal_log_probs.masked_fill(~legal, 0.0)
            legal_entropies.append(-(finite.exp() * finite).masked_fill(~legal, 0.0).sum(-1))
    legal_entropy = torch.stack(legal_entropies, dim=1)
    if scoring == "vocabulary":
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            everything = logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)  # (prompts, 1 + group * inner)
            entropies = everything[:, places].flatten(0, 1)
    else:
        entropies = legal_entropy
    return CompletionScores(torch.stack(log_probs, dim=1), entropies, legal_entropy.detach())


def _tree_of_branches(prompt_mask: torch.Tensor, group: int, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Who sees whom, `(prompts, columns, columns)`, and the positions, `(prompts, columns)`, behind prompts."""
    num_prompts, length = prompt_mask.shape
    device = prompt_mask.device
    columns = length + group * inner
    structure = torch.ones(columns, columns, dtype=torch.bool, device=device).tril()
    eye = torch.eye(group, dtype=torch.bool, device=device)
    own = torch.ones(inner, inner, dtype=torch.bool, device=device).tril()
    structure[length:, length:] = (eye[:, None, :, None] & own[None, :, None, :]).reshape(group * inner, -1)
    seen = torch.cat([prompt_mask, prompt_mask.new_ones(num_prompts, group * inner)], dim=1)
    # Padding sees itself, so that no row of the mask is empty; nothing sees padding.
    visible = (structure & seen.unsqueeze(1)) | torch.eye(columns, dtype=torch.bool, device=device)
    prompt_positions = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
    steps = torch.arange(inner, device=device).repeat(group)
    positions = torch.cat([prompt_positions, prompt_mask.sum(-1, keepdim=True) + steps], dim=1)
    return visible, positions
