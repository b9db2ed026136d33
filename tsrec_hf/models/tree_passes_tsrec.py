"""
Run many continuations of a prompt in one forward pass.

`TreePasses` prefills a prompt once and appends its continuations, a tree of tokens, to the same sequence: under an
additive float mask each position attends to the prompt and to its own ancestors only. Keys and values are appended to
the cache and never copied per continuation or reordered, since the mask follows the tree instead. `PackedPasses` packs
the prompts and trees of several users into one sequence, for searches that expand unlike numbers of continuations per
user. Whether a backbone's attention can take such a mask is for `probing_tsrec` to find out.

The prefix that all prompts share is prefilled once, as a `SharedPrefix`.
"""

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel


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


def takes_argument(module: nn.Module, name: str) -> bool:
    """Whether a module's `forward` takes an argument of this name."""
    parameters = inspect.signature(module.forward).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def input_device(backbone: PreTrainedModel) -> torch.device:
    """The device that a model's inputs belong on, also where its first weights are offloaded to the CPU or a disk."""
    if backbone.device.type != "meta":
        return backbone.device
    hook = getattr(backbone.get_input_embeddings(), "_hf_hook", None)  # accelerate's, which fetches the weights
    devices = [getattr(one, "execution_device", None) for one in getattr(hook, "hooks", [hook])]
    device = next((device for device in devices if device is not None), None)
    if device is None:
        raise ValueError(
            f"Expected the weights of `{type(backbone).__name__}`, but they are on the device 'meta', which holds "
            "none. Load the recommender by `from_pretrained`."
        )
    return torch.device(device)


def run_forward(
    backbone: PreTrainedModel, cache_name: str, cache: Any = None, return_cache: bool = False, **inputs
) -> Any:
    """Runs a backbone as [`Forward`] says, given the name by which it takes a cache."""
    if cache is not None:
        inputs[cache_name] = cache
    output = backbone(**inputs, **router_arguments(backbone))
    return (output.logits, output[cache_name]) if return_cache else output.logits


def router_arguments(backbone: PreTrainedModel) -> dict[str, bool]:
    """
    Arguments that keep a mixture of experts from computing its auxiliary loss, which takes no tree mask and no mask of
    more columns than there are tokens. TRL asks for that loss in the configuration, where it stays.
    """
    asked = hasattr(backbone.config.get_text_config(), "output_router_logits")
    return {"output_router_logits": False} if asked and takes_argument(backbone, "output_router_logits") else {}


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
