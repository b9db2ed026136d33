"""
Continuations of a prompt as rows of a batch, for backbones whose attention takes no tree mask.

`CopiedPasses` runs the path to each continuation behind a copy of the prompt's cache, which is much of what beam
search in `generate` asks of a backbone. `PlainPasses` asks for nothing but a forward pass of whole sequences without
padding, and is therefore what all other kinds of passes are compared with.
"""

import copy
import inspect
from typing import Any

import torch
from transformers import PreTrainedModel

from .tree_passes_tsrec import Forward, SharedPrefix, takes_argument


# Tokens of a plain forward pass, at most: its rows are whole sequences, one for each continuation.
MAX_PLAIN_TOKENS = 16_384


class _RowPasses:
    """The prompts, with the prefix in front, and the paths to the nodes behind them."""

    def __init__(
        self,
        backbone: PreTrainedModel,
        forward: Forward,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        prefix: SharedPrefix | None = None,
    ):
        self._forward = forward
        self._backbone = backbone
        self._input_ids, self._attention_mask = input_ids, attention_mask
        if prefix is not None:
            self._input_ids, self._attention_mask = _put_in_front(prefix.input_ids, input_ids, attention_mask)
        self._prompt_lengths = self._attention_mask.sum(-1)
        # Tokens of the path to each node, filled up on the right, and how many there are. Node 0 has none.
        self._paths = input_ids.new_zeros(len(input_ids), 1, 0)
        self._depths = input_ids.new_zeros(len(input_ids), 1)

    def _add_nodes(self, parents: torch.Tensor, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The paths of new nodes, `(batch, nodes, longest)`, and their depths, `(batch, nodes)`."""
        depths = self._depths.gather(1, parents) + 1
        longest = int(depths.max())
        self._paths = torch.nn.functional.pad(self._paths, (0, max(longest - self._paths.shape[2], 0)))
        paths = self._paths.gather(1, parents.unsqueeze(-1).expand(-1, -1, self._paths.shape[2]))
        paths = paths.scatter(2, depths.unsqueeze(-1) - 1, token_ids.unsqueeze(-1))
        self._paths = torch.cat([self._paths, paths], dim=1)
        self._depths = torch.cat([self._depths, depths], dim=1)
        return paths[:, :, :longest], depths


class CopiedPasses(_RowPasses):
    """
    As [`TreePasses`], with a row for each continuation: its path runs behind a copy of the prompt's cache. Slower and
    hungrier.
    """

    _cache: Any = None

    def prompt_logits(self) -> torch.Tensor:
        """Logits of the prompts' last position: `(batch, 1, vocabulary)`."""
        positions = (self._attention_mask.cumsum(-1) - 1).clamp(min=0)
        logits, self._cache = self._run(self._input_ids, self._attention_mask, positions, None)
        return logits[:, -1:]

    def extend(self, parents: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """As [`TreePasses.extend`]."""
        batch_size, width = parents.shape
        paths, depths = self._add_nodes(parents, token_ids)
        steps = torch.arange(paths.shape[2], device=parents.device)
        own = (steps < depths.unsqueeze(-1)).flatten(0, 1)  # (batch * nodes, longest)
        prompt = self._attention_mask.repeat_interleave(width, dim=0)
        positions = self._prompt_lengths.repeat_interleave(width).unsqueeze(-1) + steps
        # Recurrent states can be reordered, but not repeated (transformers 5.24).
        cache = copy.deepcopy(self._cache)
        cache.reorder_cache(torch.arange(batch_size, device=parents.device).repeat_interleave(width))
        mask = torch.cat([prompt, own.to(prompt.dtype)], dim=1)
        logits, _ = self._run(paths.flatten(0, 1), mask, positions, cache)
        last = (depths.flatten() - 1).view(-1, 1, 1).expand(-1, 1, logits.shape[-1])
        return logits.gather(1, last).view(batch_size, width, -1)

    def _run(self, input_ids, attention_mask, positions, cache) -> tuple[torch.Tensor, Any]:
        kwargs = (
            {"position_ids": positions}
            if "position_ids" in inspect.signature(self._backbone.forward).parameters
            else {}
        )
        return self._forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            cache=cache,
            use_cache=True,
            return_cache=True,
            **kwargs,
        )


class PlainPasses(_RowPasses):
    """As [`TreePasses`], by a plain forward pass of the whole sequence of each continuation: the slowest kind."""

    def prompt_logits(self) -> torch.Tensor:
        """Logits of the prompts' last position: `(batch, 1, vocabulary)`."""
        return self._run(self._input_ids, self._prompt_lengths).unsqueeze(1)

    def extend(self, parents: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """As [`TreePasses.extend`]."""
        batch_size, width = parents.shape
        paths, depths = self._add_nodes(parents, token_ids)
        prompts = self._input_ids.repeat_interleave(width, dim=0)
        lengths = self._prompt_lengths.repeat_interleave(width) + depths.flatten()
        return self._run(torch.cat([prompts, paths.flatten(0, 1)], dim=1), lengths).view(batch_size, width, -1)

    def _run(self, rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits of the last token of rows that begin behind their prompt's padding: `(rows, vocabulary)`."""
        padding = self._input_ids.shape[1] - self._prompt_lengths
        padding = padding.repeat_interleave(len(rows) // len(padding))
        kwargs = {"use_cache": False, "logits_to_keep": 1}
        kwargs = {name: value for name, value in kwargs.items() if takes_argument(self._backbone, name)}
        places, parts = [], []
        # Rows of one length go together, so that nothing is padding.
        for length in lengths.unique().tolist():
            same = (lengths == length).nonzero().flatten()
            columns = torch.arange(length, device=rows.device)
            for some in same.split(max(MAX_PLAIN_TOKENS // length, 1)):
                tokens = rows[some].gather(1, padding[some].unsqueeze(-1) + columns)
                parts.append(self._forward(input_ids=tokens, **kwargs)[:, -1])
                places.append(some)
        return torch.cat(parts)[torch.cat(places).argsort()]


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
