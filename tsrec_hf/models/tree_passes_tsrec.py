"""
Run many continuations of a prompt in one forward pass.

`TreePasses` prefills a prompt once and appends its continuations, a tree of tokens, to the same sequence: under an
additive float mask each position attends to the prompt and to its own ancestors only. Keys and values are appended to
the cache and never copied per continuation or reordered, since the mask follows the tree instead. `ExpandedPasses`
computes the same logits with a copy of the cache for every continuation, for backbones whose attention takes no such
mask. `PackedPasses` packs the prompts and trees of several users into one sequence, for searches that expand unlike
numbers of continuations per user.

The prefix that all prompts share is prefilled once, as a `SharedPrefix`.
"""

import copy
import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Runs the backbone on keyword arguments of its `forward`, the cache by the name `cache`, and returns logits; with
# `return_cache=True` logits and the cache.
Forward = Callable[..., Any]


def cache_argument(module: nn.Module) -> str:
    """
    The name by which a module's `forward` takes a cache and its output gives it.

    transformers 5.24 calls `cache` what was `past_key_values`, and will forget the old name in 5.40. To be removed
    when 5.24 is the lowest version that is supported.
    """
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


class SharedPrefix:
    """
    The prefix that all prompts of a session share: its tokens, and their keys and values, computed on first use.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            Causal language model.
        input_ids (`torch.Tensor` of shape `(prefix,)`):
            The tokens, at least one.
    """

    def __init__(self, backbone: PreTrainedModel, input_ids: torch.Tensor):
        self._backbone = backbone
        self.input_ids = input_ids

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def _layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cache = DynamicCache()
        decoder = self._backbone.base_model
        decoder(input_ids=self.input_ids.unsqueeze(0), use_cache=True, **{cache_argument(decoder): cache})
        # All layers are filled, and of attention.
        return [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr, misc]

    def cache(self, batch_size: int) -> DynamicCache:
        """A cache of the prefix for a batch. Rows share their memory until something is appended."""
        return DynamicCache([tuple(part.expand(batch_size, -1, -1, -1) for part in layer) for layer in self._layers])


def tree_attention_mask(
    visible: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    config: PreTrainedConfig,
    dtype: torch.dtype,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """
    Builds the additive attention mask of a tree of continuations.

    Args:
        visible (`torch.Tensor` of shape `(batch, queries, keys)`):
            Whether a position sees another one, windows aside.
        query_positions (`torch.Tensor` of shape `(batch, queries)`):
            Positions of the queries.
        key_positions (`torch.Tensor` of shape `(batch, keys)`):
            Positions of the keys.
        config ([`~transformers.PreTrainedConfig`]):
            The backbone's text configuration: its kinds of layers and their window.
        dtype (`torch.dtype`):
            Type of the mask, that of the model's activations.

    Returns:
        `torch.Tensor` of shape `(batch, 1, queries, keys)`: 0 where a position is seen, else the least number of
        `dtype`; or a dictionary with such a mask for each kind of layer, where the backbone mixes them.
    """
    masks = {}
    for layer_type in _layer_types(config):
        seen = visible
        if layer_type == "sliding_attention":
            # The window counts positions: the branches of a tree share them, so columns would count too much.
            seen = visible & (query_positions.unsqueeze(-1) - key_positions.unsqueeze(1) < config.sliding_window)
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        masks[layer_type] = mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _layer_types(config: PreTrainedConfig) -> list[str]:
    """Kinds of attention among the backbone's layers; more than one means that it takes a dictionary of masks."""
    kinds = sorted(set(getattr(config, "layer_types", None) or []))
    if kinds:
        return kinds
    return ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]


def why_no_tree_mask(backbone: PreTrainedModel) -> str | None:
    """Why the backbone's attention cannot take a tree mask; `None` where it can."""
    config = backbone.config.get_text_config()
    implementation = backbone.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        return f"attention {implementation!r} takes no additive mask: load with `attn_implementation='sdpa'`"
    # GPT-Neo says "local" in a list of its own, and cuts by columns.
    kinds = {*_layer_types(config), *(getattr(config, "attention_layers", None) or [])} - {"global"}
    unknown = sorted(kinds - {"full_attention", "sliding_attention"})
    if unknown:
        return f"it has layers of type {unknown[0]!r}, whose mask cannot be given"
    if "position_ids" not in inspect.signature(backbone.forward).parameters or getattr(config, "alibi", False):
        return "it takes positions from the columns of a sequence"
    return None


class TreePasses:
    """
    Prefills a batch of prompts, then runs trees of tokens behind them. Makes no device synchronisation.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            The model whose attention it is.
        forward (`Callable`):
            Gives the logits of the inputs' positions.
        input_ids (`torch.Tensor` of shape `(batch, prompt)`):
            Prompts without the prefix, padded on the left.
        attention_mask (`torch.Tensor` of shape `(batch, prompt)`):
            1 for the prompts' tokens, 0 for padding.
        prefix ([`SharedPrefix`], *optional*):
            What stands before every prompt.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        forward: Forward,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        prefix: SharedPrefix | None = None,
    ):
        self._config = backbone.config.get_text_config()
        self._dtype = backbone.dtype
        self._forward = forward
        self._input_ids = input_ids
        batch_size, _ = input_ids.shape
        length = 0 if prefix is None else len(prefix)
        # A plain cache keeps every key; a backbone's own would forget those outside a sliding window.
        self._cache = DynamicCache() if prefix is None else prefix.cache(batch_size)
        prefix_mask = attention_mask.new_ones(batch_size, length)
        # Columns of the cache: the prefix, the padded prompt, and then every node of the tree in the order it came.
        self._prompt_mask = torch.cat([prefix_mask, attention_mask], dim=1).bool()  # (batch, prefix + prompt)
        self._key_positions = (self._prompt_mask.cumsum(-1) - 1).clamp(min=0)  # (batch, columns)
        self._prompt_lengths = self._prompt_mask.sum(-1)  # (batch,)
        # Which nodes lie on the path to each node, itself included. Node 0 is the end of the prompt.
        self._paths = torch.ones(batch_size, 1, 1, dtype=torch.bool, device=input_ids.device)

    def prompt_logits(self) -> torch.Tensor:
        """Logits of the prompts' last position: `(batch, 1, vocabulary)`."""
        width = self._input_ids.shape[1]
        columns = self._prompt_mask.shape[1]
        causal = torch.ones(width, columns, dtype=torch.bool, device=self._input_ids.device).tril(columns - width)
        # Padding sees itself, so that no row of the mask is empty; nothing sees padding.
        own = torch.zeros_like(causal).diagonal_scatter(causal.new_ones(width), columns - width)
        visible = (causal & self._prompt_mask.unsqueeze(1)) | own
        positions = self._key_positions[:, columns - width :]
        mask = tree_attention_mask(visible, positions, self._key_positions, self._config, self._dtype)
        return self._run(self._input_ids, mask, positions, logits_to_keep=1)

    def extend(self, parents: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """
        Adds nodes to the trees.

        Args:
            parents (`torch.Tensor` of shape `(batch, nodes)`):
                The node that each new one follows: 0 for the end of the prompt, then 1, 2, ... in the order in which
                nodes were added.
            token_ids (`torch.Tensor` of shape `(batch, nodes)`):
                Their tokens.

        Returns:
            `torch.Tensor` of shape `(batch, nodes, vocabulary)`: Logits of what follows each.
        """
        batch_size, width = parents.shape
        known = self._paths.shape[1]
        paths = self._paths.gather(1, parents.unsqueeze(-1).expand(-1, -1, known))
        itself = torch.eye(width, dtype=torch.bool, device=parents.device).expand(batch_size, -1, -1)
        paths = torch.cat([paths, itself], dim=-1)  # (batch, nodes, known + nodes)
        self._paths = torch.cat([torch.nn.functional.pad(self._paths, (0, width)), paths], dim=1)
        positions = self._prompt_lengths.unsqueeze(-1) + paths.sum(-1) - 2
        self._key_positions = torch.cat([self._key_positions, positions], dim=1)
        prompt = self._prompt_mask.unsqueeze(1).expand(-1, width, -1)
        visible = torch.cat([prompt, paths[:, :, 1:]], dim=-1)
        mask = tree_attention_mask(visible, positions, self._key_positions, self._config, self._dtype)
        return self._run(token_ids, mask, positions)

    def _run(self, input_ids, mask, positions, **kwargs) -> torch.Tensor:
        return self._forward(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            cache=self._cache,
            use_cache=True,
            **kwargs,
        )


class PackedPasses:
    """
    As [`TreePasses`], with the prompts of all users and the trees behind them packed into one row: nothing is padding,
    and a forward pass takes as many nodes of each user as are asked for. Its cost is per token, and attention costs by
    the square of the row, so that it pays for few users on a CPU. Synchronises with the device.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        forward: Forward,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        prefix: SharedPrefix | None = None,
    ):
        self._config = backbone.config.get_text_config()
        self._dtype = backbone.dtype
        self._forward = forward
        self._input_ids, self._attention_mask = input_ids, attention_mask.bool()
        self._cache = DynamicCache() if prefix is None else prefix.cache(1)
        self._key_positions = torch.arange(0 if prefix is None else len(prefix), device=input_ids.device)
        # Which columns of the cache each node sees, itself included. The first nodes are the ends of the prompts.
        self._seen = torch.ones(0, 0, dtype=torch.bool, device=input_ids.device)

    @property
    def num_nodes(self) -> int:
        """Number of nodes so far, which is the number of the next one."""
        return len(self._seen)

    def prompt_logits(self) -> torch.Tensor:
        """Logits of the prompts' last positions: `(users, vocabulary)`."""
        users, _ = self._attention_mask.nonzero(as_tuple=True)
        own = (users.unsqueeze(-1) == users).tril()
        seen = torch.nn.functional.pad(own, (len(self._key_positions), 0), value=True)
        ends = self._attention_mask.sum(-1).cumsum(0) - 1
        self._seen = seen[ends]
        return self._run(self._input_ids[self._attention_mask], seen, logits_to_keep=ends)

    def extend(self, parents: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """
        Adds nodes to the trees.

        Args:
            parents (`torch.Tensor` of shape `(nodes,)`):
                The node that each new one follows: from 0 the ends of the users' prompts, then all in the order in
                which they were added.
            token_ids (`torch.Tensor` of shape `(nodes,)`):
                Their tokens.

        Returns:
            `torch.Tensor` of shape `(nodes, vocabulary)`: Logits of what follows each.
        """
        itself = torch.eye(len(parents), dtype=torch.bool, device=parents.device)
        seen = torch.cat([self._seen[parents], itself], dim=1)
        self._seen = torch.cat([torch.nn.functional.pad(self._seen, (0, len(parents))), seen])
        return self._run(token_ids, seen)

    def _run(self, token_ids: torch.Tensor, seen: torch.Tensor, **kwargs) -> torch.Tensor:
        positions = seen.sum(-1) - 1
        self._key_positions = torch.cat([self._key_positions, positions])
        queries, keys = positions.unsqueeze(0), self._key_positions.unsqueeze(0)
        logits = self._forward(
            input_ids=token_ids.unsqueeze(0),
            attention_mask=tree_attention_mask(seen.unsqueeze(0), queries, keys, self._config, self._dtype),
            position_ids=queries,
            cache=self._cache,
            use_cache=True,
            **kwargs,
        )
        return logits[0]


class ExpandedPasses:
    """
    As [`TreePasses`], with a row for each continuation: its path runs behind a copy of the prompt's cache.

    Slower and hungrier, but it asks nothing of the attention beyond what `generate` asks.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        forward: Forward,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        prefix: SharedPrefix | None = None,
    ):
        self._forward = forward
        self._takes_positions = "position_ids" in inspect.signature(backbone.forward).parameters
        self._input_ids, self._attention_mask = input_ids, attention_mask
        if prefix is not None:
            self._input_ids, self._attention_mask = _put_in_front(prefix.input_ids, input_ids, attention_mask)
        self._prompt_lengths = self._attention_mask.sum(-1)
        # Tokens of the path to each node, filled up on the right, and how many there are. Node 0 has none.
        self._paths = input_ids.new_zeros(len(input_ids), 1, 0)
        self._depths = input_ids.new_zeros(len(input_ids), 1)
        self._cache: DynamicCache | None = None

    def prompt_logits(self) -> torch.Tensor:
        """Logits of the prompts' last position: `(batch, 1, vocabulary)`."""
        positions = (self._attention_mask.cumsum(-1) - 1).clamp(min=0)
        logits, self._cache = self._run(self._input_ids, self._attention_mask, positions, None)
        return logits[:, -1:]

    def extend(self, parents: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """As [`TreePasses.extend`]."""
        batch_size, width = parents.shape
        depths = self._depths.gather(1, parents) + 1  # (batch, nodes)
        longest = int(depths.max())
        self._paths = torch.nn.functional.pad(self._paths, (0, max(longest - self._paths.shape[2], 0)))
        paths = self._paths.gather(1, parents.unsqueeze(-1).expand(-1, -1, self._paths.shape[2]))
        paths = paths.scatter(2, depths.unsqueeze(-1) - 1, token_ids.unsqueeze(-1))
        self._paths = torch.cat([self._paths, paths], dim=1)
        self._depths = torch.cat([self._depths, depths], dim=1)

        steps = torch.arange(longest, device=parents.device)
        own = (steps < depths.unsqueeze(-1)).flatten(0, 1)  # (batch * nodes, longest)
        prompt = self._attention_mask.repeat_interleave(width, dim=0)
        positions = self._prompt_lengths.repeat_interleave(width).unsqueeze(-1) + steps
        cache = copy.deepcopy(self._cache)
        assert cache is not None  # the prompt is prefilled first
        cache.batch_repeat_interleave(width)
        mask = torch.cat([prompt, own.to(prompt.dtype)], dim=1)
        logits, _ = self._run(paths[:, :, :longest].flatten(0, 1), mask, positions, cache)
        last = (depths.flatten() - 1).view(-1, 1, 1).expand(-1, 1, logits.shape[-1])
        return logits.gather(1, last).view(batch_size, width, -1)

    def _run(self, input_ids, attention_mask, positions, cache) -> tuple[torch.Tensor, DynamicCache]:
        kwargs = {"position_ids": positions} if self._takes_positions else {}
        return self._forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            cache=cache,
            use_cache=True,
            return_cache=True,
            **kwargs,
        )


def _put_in_front(
    prefix_ids: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepends a prefix to left-padded prompts; the result is left-padded as well."""
    batch_size, width = input_ids.shape
    padding = width - attention_mask.sum(-1, keepdim=True)  # (batch, 1)
    columns = torch.arange(width + len(prefix_ids), device=input_ids.device)
    whole = torch.cat([prefix_ids.expand(batch_size, -1), input_ids], dim=1)
    # Columns before the prompt's first token hold padding, then the prefix; the rest stays where it is.
    moved = (columns - padding).clamp(min=0)
    inside = columns < padding + len(prefix_ids)
    return whole.gather(1, torch.where(inside, moved, columns)), (columns >= padding).to(attention_mask.dtype)


def make_passes(backbone: PreTrainedModel, *args, **kwargs) -> TreePasses | ExpandedPasses:
    """The fastest kind of passes that the backbone's attention can take; warns once where it is the slow one."""
    reason = why_no_tree_mask(backbone)
    if reason is None:
        return TreePasses(backbone, *args, **kwargs)
    logger.warning_once(
        f"`{type(backbone).__name__}` cannot decode candidates as a tree, since {reason}. They are decoded with a "
        "copy of the cache each: the same results, slower and with more memory."
    )
    return ExpandedPasses(backbone, *args, **kwargs)
