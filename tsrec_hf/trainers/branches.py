"""
Log-probabilities of a prompt's completions from one forward pass.

The completions of a group differ only in a few tokens behind the same prompt. They stand behind it in one row, as the
branches of a tree: each attends to the prompt and to itself, under the mask that decoding uses. The prompt then goes
through the model once instead of once per completion, forward and backward, and gradients add up over the branches.

Where a backbone's attention takes no such mask, each completion has a row of its own, padded on the right: then no
causal model needs to be told of positions or of padding.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from tsrec_hf.models import SIDTrie
from tsrec_hf.models.evaluation_view_tsrec import evaluation_view
from tsrec_hf.models.probing_tsrec import Probe, ProbeTree
from tsrec_hf.models.search_tsrec import catalogue_log_probs
from tsrec_hf.models.tree_passes_tsrec import router_arguments, takes_argument, tree_attention_mask


@dataclass
class CompletionScores:
    """
    What [`score_completions`] returns, each a `torch.Tensor` of shape `(completions, levels)`.

    Attributes:
        log_probs: Log-probability of each token.
        entropies: Entropy of the distribution each was taken from.
        legal_entropies: Entropy over the tokens that continue a SID that exists. Without gradient.
        aux_loss: Load-balancing loss of a mixture of experts, of shape `()`, where it was asked for.
    """

    log_probs: torch.Tensor
    entropies: torch.Tensor
    legal_entropies: torch.Tensor
    aux_loss: torch.Tensor | None = None


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
    backbone: PreTrainedModel,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    legal_tokens: LegalTokens,
    scoring: str = "vocabulary",
    temperature: float = 1.0,
    entropy_gradient: bool = False,
    shared_prefix: bool = True,
    with_aux_loss: bool = False,
) -> CompletionScores:
    """
    Scores groups of completions, each group behind one copy of its prompt.

    Args:
        model (`nn.Module`):
            The recommender, as the trainer wrapped it.
        backbone ([`~transformers.PreTrainedModel`]):
            The recommender's backbone.
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
        shared_prefix (`bool`, *optional*, defaults to `True`):
            Whether a group shares one pass, which the backbone's attention must be able to; see [`can_share_prefix`].
        with_aux_loss (`bool`, *optional*, defaults to `False`):
            Whether to return the load-balancing loss of a mixture of experts; without `shared_prefix`.

    Returns:
        [`CompletionScores`], groups in a row.
    """
    # Logits, and the row and the columns of them where the tokens of each completion are predicted.
    aux_loss = None
    if shared_prefix:
        logits = branch_logits(model, backbone, prompt_ids, prompt_mask, completion_ids)
        rows, columns = _places_of_branches(completion_ids)
    else:
        logits, columns, aux_loss = _row_logits(
            model, backbone, prompt_ids, prompt_mask, completion_ids, with_aux_loss
        )
        rows = torch.arange(len(columns), device=prompt_ids.device)
    logits = logits.float() / temperature  # (rows, columns, vocabulary)
    log_normalizers = logits.logsumexp(-1)[rows.unsqueeze(-1), columns] if scoring == "vocabulary" else None
    log_probs, legal_entropies = [], []
    for level, (tokens, legal, chosen) in enumerate(legal_tokens.along(completion_ids.flatten(0, 1))):
        picked = logits[rows.unsqueeze(-1), columns[:, level].unsqueeze(-1), tokens]  # (completions, width)
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
            everything = logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)  # (rows, columns)
            entropies = everything[rows.unsqueeze(-1), columns]
    else:
        entropies = legal_entropy
    return CompletionScores(torch.stack(log_probs, dim=1), entropies, legal_entropy.detach(), aux_loss)


def can_share_prefix(backbone: PreTrainedModel, length: int) -> bool:
    """
    Whether the completions of a prompt can share a forward pass through a backbone, for sequences up to a length.

    Raises `ValueError` for a backbone that runs no plain forward pass, or is not causal.
    """
    view = evaluation_view(backbone)

    def run(tree: ProbeTree) -> torch.Tensor:
        prompts, mask = tree.input_ids, tree.attention_mask
        prefix = tree.prefix_ids.expand(len(prompts), -1)
        # As in a batch: padding is on the left of all.
        order = mask.argsort(dim=-1, stable=True)
        seen = torch.cat([mask.new_ones(prefix.shape), mask], dim=1)
        whole = torch.cat([prefix, prompts], dim=1).gather(1, seen.argsort(dim=-1, stable=True))
        seen = torch.cat([mask.gather(1, order), mask.new_ones(prefix.shape)], dim=1)
        # The last level's tokens predict nothing: one more is put behind.
        completions = torch.cat([tree.token_ids, tree.token_ids[-1:]]).permute(1, 2, 0)  # (prompts, group, levels)
        logits = branch_logits(view, view, whole, seen, completions)
        rows, columns = _places_of_branches(completions)
        return logits[rows.unsqueeze(-1), columns].unflatten(0, (len(prompts), -1))[:, -1]

    return Probe(view, length).agrees("branches", run)


def branch_logits(
    model: nn.Module,
    backbone: PreTrainedModel,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
) -> torch.Tensor:
    """
    Logits behind each prompt and each token of its completions but the last, branch after branch: `(prompts, 1 +
    group * (levels - 1), vocabulary)`. Arguments as in [`score_completions`].
    """
    _, group, levels = completion_ids.shape
    inner = levels - 1
    # The last token of a completion predicts nothing: it is not read.
    input_ids = torch.cat([prompt_ids, completion_ids[:, :, :inner].flatten(1)], dim=1)
    visible, positions = _tree_of_branches(prompt_mask.bool(), group, inner)
    config = backbone.config.get_text_config()
    return model(
        input_ids=input_ids,
        attention_mask=tree_attention_mask(visible, positions, positions, config, backbone.dtype),
        position_ids=positions,
        logits_to_keep=1 + group * inner,
        use_cache=False,
        **router_arguments(backbone),
    ).logits


def _places_of_branches(completion_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each token of a completion is predicted: at the prompt's end, then along its own branch."""
    num_prompts, group, levels = completion_ids.shape
    device = completion_ids.device
    branch = 1 + torch.arange(group * (levels - 1), device=device).view(group, levels - 1)
    columns = torch.cat([branch.new_zeros(group, 1), branch], dim=1)  # (group, levels)
    rows = torch.arange(num_prompts, device=device).repeat_interleave(group)
    return rows, columns.repeat(num_prompts, 1)


def _row_logits(
    model: nn.Module,
    backbone: PreTrainedModel,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    with_aux_loss: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    Logits `(completions, columns, vocabulary)` with a row for each completion, the columns `(completions, levels)` in
    which its tokens are predicted, and the auxiliary loss.
    """
    _, group, levels = completion_ids.shape
    prompts, mask = (part.repeat_interleave(group, dim=0) for part in (prompt_ids, prompt_mask))
    completions = completion_ids[:, :, : levels - 1].flatten(0, 1)
    rows = torch.cat([prompts, completions], dim=1)
    width = rows.shape[1]
    lengths = mask.sum(-1, keepdim=True)
    steps = torch.arange(width, device=rows.device)
    # Padding goes from the left to the right.
    rows = rows.gather(1, (steps + prompts.shape[1] - lengths) % width)
    kept = width - int(lengths.min()) + 1
    kwargs = {"use_cache": False, "logits_to_keep": kept}
    kwargs = {name: value for name, value in kwargs.items() if takes_argument(backbone, name)}
    if with_aux_loss:
        kwargs["output_router_logits"] = True
    attention_mask = (steps < lengths + levels - 1).to(prompt_mask.dtype)
    output = model(input_ids=rows, attention_mask=attention_mask, **kwargs)
    columns = lengths - 1 + torch.arange(levels, device=rows.device) - (width - kept)
    return output.logits[:, -kept:], columns, output.aux_loss if with_aux_loss else None


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
