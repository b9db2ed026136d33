"""
Constrained beam search over a catalogue as tree decoding.

The prompt of a user is read once. Each level's surviving prefixes then go through the model together, as positions of
one sequence that see the prompt and their own ancestors only: an additive float mask says so. The keys and values of a
level are appended to the cache and never copied per beam or reordered, since the mask follows the beams instead.
Scores are sums of log-probabilities over the whole vocabulary, those of
`generate(num_beams=K, length_penalty=0, prefix_allowed_tokens_fn=...)`. Nothing here reads a `generation_config`.
"""

from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from .filtering_tsrec import NodeFilter
from .indexing_tsrec import SIDTrie


@dataclass
class TreeBeams:
    """
    Result of [`tree_beam_search`], best beam first.

    Attributes:
        leaves (`torch.Tensor` of shape `(batch, beams)`): Leaf of the trie each beam ends in.
        scores (`torch.Tensor` of shape `(batch, beams)`): Summed log-probability in float32; `-inf` for beams that
            found no legal SID, because the rules leave fewer; their leaf means nothing.
    """

    leaves: torch.Tensor
    scores: torch.Tensor


class TreeMask:
    """
    Who sees whom when candidates of several levels stand in one sequence behind a left-padded prompt.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, prompt)`):
            1 for the prompt's tokens, 0 for padding on the left.
        config ([`~transformers.PreTrainedConfig`]):
            The backbone's text configuration: its layer types and sliding window.
        dtype (`torch.dtype`):
            Type of the additive mask, that of the model's activations.
    """

    def __init__(self, attention_mask: torch.Tensor, config, dtype: torch.dtype):
        self.minimum = torch.finfo(dtype).min
        self.dtype = dtype
        self.layer_types = _mask_layer_types(config)
        self.window = getattr(config, "sliding_window", None)
        self.prompt_positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)  # (batch, prompt)
        self.prompt_lengths = attention_mask.sum(-1)  # (batch,)
        self.prompt_visible = attention_mask.bool()  # (batch, prompt)
        # For each earlier level, the column within its block of every current beam's ancestor.
        self.ancestors: list[torch.Tensor] = []  # each (batch, beams)
        self.widths: list[int] = []

    def grow(self, parents: torch.Tensor) -> None:
        """
        Moves to the next level, whose beam `k` extends beam `parents[:, k]` of the current one: `(batch, beams)`.
        """
        self.ancestors = [ancestor.gather(1, parents) for ancestor in self.ancestors]
        self.ancestors.append(torch.arange(parents.shape[1], device=parents.device).expand_as(parents))
        self.widths.append(parents.shape[1])

    def position_ids(self) -> torch.Tensor:
        """Positions of the current level's beams: `(batch, beams)`."""
        position = self.prompt_lengths + len(self.widths) - 1
        return position.unsqueeze(-1).expand(-1, self.widths[-1])

    def attention_mask(self) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive mask of shape `(batch, 1, beams, prompt + all levels' beams)`, or one for each kind of layer."""
        beams = self.widths[-1]
        blocks = [
            ancestor.unsqueeze(-1) == torch.arange(width, device=ancestor.device)
            for ancestor, width in zip(self.ancestors, self.widths)
        ]
        visible = torch.cat([self.prompt_visible.unsqueeze(1).expand(-1, beams, -1), *blocks], dim=-1)
        masks = {}
        for layer_type in self.layer_types:
            seen = visible
            if layer_type == "sliding_attention":
                # The window counts positions: branches share them, so columns would count too much.
                seen = visible & (self.position_ids().unsqueeze(-1) - self._key_positions() < self.window)
            mask = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
            masks[layer_type] = mask.masked_fill_(~seen, self.minimum).unsqueeze(1)
        return masks if len(masks) > 1 else masks[self.layer_types[0]]

    def _key_positions(self) -> torch.Tensor:
        """Positions of the prompt's tokens and of all levels' beams: `(batch, 1, prompt + all levels' beams)`."""
        levels = [
            (self.prompt_lengths + level).unsqueeze(-1).expand(-1, width) for level, width in enumerate(self.widths)
        ]
        return torch.cat([self.prompt_positions, *levels], dim=-1).unsqueeze(1)


def _mask_layer_types(config) -> list[str]:
    """Kinds of attention among the backbone's layers; more than one means that it takes a dict of masks."""
    kinds = sorted(set(getattr(config, "layer_types", None) or []))
    if not kinds:
        return ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]
    unknown = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    if unknown:
        raise ValueError(
            f"Expected a backbone of full and sliding attention layers, but found layers of type {unknown[0]!r}. "
            "Tree decoding cannot mask those: decode with `generate` and a `prefix_allowed_tokens_fn` instead."
        )
    return kinds


# Not `inference_mode`: its tensors would be refused by a later backward pass, the scores and a backbone's cached ones
# alike.
@torch.no_grad()
def tree_beam_search(
    backbone: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    trie: SIDTrie,
    level_token_ids: list[torch.Tensor],
    num_beams: int,
    node_filter: NodeFilter | None = None,
) -> TreeBeams:
    """
    The most probable SIDs that exist, for a batch of prompts.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            Causal language model, in evaluation mode.
        input_ids (`torch.Tensor` of shape `(batch, prompt)`):
            Prompts, padded on the left.
        attention_mask (`torch.Tensor` of shape `(batch, prompt)`):
            1 for the prompts' tokens, 0 for padding.
        trie ([`SIDTrie`]):
            The legal SIDs, on the model's device.
        level_token_ids (`list[torch.Tensor]`):
            For each level, the token id of every code.
        num_beams (`int`):
            Prefixes that survive each level.
        node_filter ([`NodeFilter`], *optional*):
            Rules of the batch's users: prefixes that lead only to items they may not be given take no place.

    Returns:
        [`TreeBeams`] with `min(num_beams, number of SIDs)` beams.

    Raises:
        `ValueError`: an attention implementation or kind of layer that takes no tree mask.
    """
    implementation = backbone.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"Tree decoding needs attention that takes an additive mask ('sdpa' or 'eager'), but the backbone uses "
            f"{implementation!r}. Load it with `attn_implementation='sdpa'`."
        )
    batch_size = input_ids.shape[0]
    mask = TreeMask(attention_mask, backbone.config.get_text_config(), backbone.dtype)
    # A plain cache keeps every key; a backbone's own would forget those outside a sliding window.
    cache = DynamicCache()
    logits = backbone(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=mask.prompt_positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits  # (batch, 1, vocabulary)
    nodes = torch.zeros(batch_size, 1, dtype=torch.long, device=input_ids.device)
    scores = torch.zeros(batch_size, 1, dtype=torch.float32, device=input_ids.device)

    for depth in range(trie.num_levels):
        children, codes, legal = trie.children(nodes, depth)  # each (batch, beams, width)
        if node_filter is not None:
            legal = node_filter(children, legal)
        token_ids = level_token_ids[depth][codes]
        logits = logits.float()
        log_probs = logits.gather(-1, token_ids) - logits.logsumexp(-1, keepdim=True)
        candidates = (scores.unsqueeze(-1) + log_probs).masked_fill(~legal, -torch.inf)
        width = candidates.shape[-1]
        scores, chosen = candidates.flatten(1).topk(
            min(num_beams, trie.num_prefixes(depth + 1), candidates[0].numel())
        )
        # A beam without a legal continuation may hold padding, which is no node of this level: it goes on from one
        # that is, so that codes stay within their level, and keeps its score of -inf.
        nodes = children.flatten(1).gather(1, chosen)
        nodes = torch.where(scores == -torch.inf, trie.depth_starts[depth + 1], nodes)
        if depth == trie.num_levels - 1:
            break
        mask.grow(chosen // width)
        logits = backbone(
            input_ids=token_ids.flatten(1).gather(1, chosen),
            attention_mask=mask.attention_mask(),
            position_ids=mask.position_ids(),
            past_key_values=cache,
            use_cache=True,
        ).logits  # (batch, beams, vocabulary)

    return TreeBeams(leaves=trie.leaves_of(nodes), scores=scores)
