"""
Which kinds of forward passes give a backbone's own logits?

A tree of tokens under a mask, or a copy of a cache for each continuation, is as good as the backbone's attention lets
it be: masks and positions may be ignored, distances counted by columns, windows cut, recurrent states mixed up. No
list of names tells. A [`Probe`] runs each kind on a tiny tree and compares its logits with those of a plain forward
pass of the same sequences. What it finds is kept for the process, for the class, configuration, attention
implementation, type and device of the backbone; nothing of it goes into a checkpoint. All of it costs less than three
forward passes of a prompt.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .row_passes_tsrec import CopiedPasses, PlainPasses
from .tree_passes_tsrec import (
    PackedPasses,
    SharedPrefix,
    TreePasses,
    cache_argument,
    input_device,
    run_forward,
    takes_argument,
)


logger = logging.get_logger(__name__)

# Kinds of passes, the fastest first; the plain one is right where a backbone is causal.
KINDS = {"tree": TreePasses, "copies": CopiedPasses, "plain": PlainPasses}
# Tokens of the probe's prefix, prompts and levels.
PREFIX, PROMPT, LEVELS = 4, 3, 2
# Difference of logits that rounding explains, as a share of the difference that another context makes. Any mistake
# about who sees whom is itself a difference of context.
TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}
# Steps of the type's precision, of the size of the logits, that rounding explains where contexts make no difference.
ROUNDING_STEPS = 8
# A backbone may treat sequences otherwise from some length on, which then stands in its configuration as a number; the
# names of these say that they are no length.
NO_LENGTHS = re.compile(
    r"num_|n_|_dim|dim_|_size$|hidden|vocab|_id$|_ids$|rank|layers?$|heads?|width|depth|group|expert|version|freq"
)
LENGTHS = re.compile(r"window|chunk_size|block_size|local|original_max")

_found: dict[Any, bool] = {}


@dataclass(frozen=True)
class ProbeTree:
    """
    Two prompts behind one prefix, and a tree of two levels behind each. Both end in the same tokens, so that the
    difference between their logits is what another context makes. A long tree has the second prompt alone.

    Attributes:
        prefix_ids (`torch.Tensor` of shape `(prefix,)`): What all begin with.
        input_ids (`torch.Tensor` of shape `(prompts, prompt)`): The prompts, the second one padded on the left.
        attention_mask (`torch.Tensor` of shape `(prompts, prompt)`): 0 for padding.
        token_ids (`torch.Tensor` of shape `(levels, prompts, 2)`): For each level and prompt a token that is there to
            disturb, and the token that is compared, each behind the one of its own kind.
    """

    prefix_ids: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_ids: torch.Tensor

    @classmethod
    def of(cls, backbone: PreTrainedModel, prefix_length: int) -> "ProbeTree":
        """A tree of ordinary tokens of the backbone's vocabulary."""
        config = backbone.config.get_text_config()
        special = {value for name, value in _numbers_of(config.to_dict()) if name.endswith(("_id", "_ids"))}
        size = int(getattr(backbone.get_input_embeddings(), "num_embeddings", 0) or config.vocab_size)
        ordinary = torch.tensor([token_id for token_id in range(min(size, 1000)) if token_id not in special] or [0])
        count = prefix_length + PROMPT + 1 + 3 * LEVELS
        generator = torch.Generator().manual_seed(0)
        tokens = ordinary[torch.randperm(len(ordinary), generator=generator)].repeat(count // len(ordinary) + 1)
        prefix, first, other, last, drawn = (
            tokens[:count].to(input_device(backbone)).split([prefix_length, PROMPT - 1, 1, 1, 3 * LEVELS])
        )
        padding = last.new_zeros(PROMPT - 2)
        input_ids = torch.stack([torch.cat([first, last]), torch.cat([padding, other, last])])
        attention_mask = torch.ones_like(input_ids)
        attention_mask[1, : PROMPT - 2] = 0
        disturbing, compared = drawn[: 2 * LEVELS].view(LEVELS, 2), drawn[2 * LEVELS :].unsqueeze(-1)
        return cls(prefix, input_ids, attention_mask, torch.stack([disturbing, compared.expand(-1, 2)], dim=-1))

    def second(self) -> "ProbeTree":
        """The tree of the second prompt alone."""
        return ProbeTree(self.prefix_ids, self.input_ids[1:], self.attention_mask[1:], self.token_ids[:, 1:])


# Gives the logits at the prompts' ends and at the compared tokens of all or the first levels, `(prompts, 1 + levels,
# vocabulary)`.
Run = Callable[[ProbeTree], torch.Tensor]


class Probe:
    """
    Compares kinds of forward passes of a backbone with plain ones.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            Causal language model in evaluation mode.
        length (`int`, *optional*, defaults to `0`):
            Tokens of the longest sequence that is to be read: where the configuration holds a length below that at
            which the backbone may turn to something else, such as a sliding window, a longer probe, of one prompt,
            follows the short one.

    Raises:
        `ValueError`: where logits are asked for: a backbone that runs no plain forward pass, or is not causal.
    """

    def __init__(self, backbone: PreTrainedModel, length: int = 0):
        self.backbone = backbone
        self._cache_argument = cache_argument(backbone)
        self._device = input_device(backbone)
        limits = sorted(set(_lengths_of(backbone.config.get_text_config().to_dict())))
        reached = bisect_left(limits, length)
        self._prefix_length = max(PREFIX, limits[reached - 1] + 1 if reached else 0)
        self._short = Probe(backbone) if self._prefix_length > PREFIX else None
        self.dtype = _computed_dtype(backbone)
        self._key = (
            type(backbone),
            _fixed_settings(backbone),
            backbone.config._attn_implementation,
            self.dtype,
            _is_quantized(backbone),
            self._device,
            self._prefix_length,
        )

    def agrees(self, kind: str, run: Run | None = None) -> bool:
        """
        Whether a kind of passes gives the backbone's logits.

        Args:
            kind (`str`):
                `"tree"`, `"packed"`, `"copies"` or `"plain"`, or the name of another kind that `run` runs.
            run (`Callable`, *optional*):
                Gives its logits for a [`ProbeTree`].
        """
        key = (*self._key, kind)
        if key in _found:
            return _found[key]
        if self._short is not None and not self._short.agrees(kind, run):
            return False
        reference, contrast, is_clear = self._reference
        if not bool(reference.isfinite().all()):
            return True  # nothing can be compared: whoever reads the scores will find them to be no numbers
        if kind == "plain":
            _found[key] = True
            return True
        try:
            with torch.no_grad():
                logits = self._run(kind) if run is None else run(self._tree)
            read = logits.shape[1]
            reference, contrast = reference[:, :read], contrast[:read]
            error = (_centred(logits) - reference).norm(dim=-1)  # (prompts, 1 + levels)
            agrees = bool((error <= self._tolerance(reference, contrast)).all())
            reason = f"its logits differ by {float((error / contrast).max()):.1%} of what another context changes"
        except Exception as error:  # whatever a backbone does with inputs that it was not made for
            agrees, reason = False, f"{type(error).__name__}: {error}"
        if is_clear:
            _found[key] = agrees
        if not agrees:
            logger.info(f"`{type(self.backbone).__name__}` cannot use passes of kind {kind!r}: {reason}")
        return agrees

    @cached_property
    def _trees(self) -> ProbeTree:
        return ProbeTree.of(self.backbone, self._prefix_length)

    @cached_property
    def _tree(self) -> ProbeTree:
        return self._trees if self._short is None else self._trees.second()

    @cached_property
    def _prefix(self) -> SharedPrefix:
        return SharedPrefix(self.backbone, self._tree.prefix_ids)

    @cached_property
    @torch.no_grad()
    def _reference(self) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Centred logits of plain passes, the difference of their contexts, and whether that is beyond rounding."""
        tree = self._trees
        first, second = tree.input_ids[0], tree.input_ids[1, PROMPT - 2 :]
        paths = tree.token_ids[:, :, 1]  # (levels, 2)
        rows = [
            torch.cat([tree.prefix_ids, first, paths[:, 0]]),
            # Filled up behind its end, which a causal model does not look at.
            torch.cat([tree.prefix_ids, second, paths[:, 1], first[: PROMPT - len(second)]]),
        ]
        places = torch.arange(1 + LEVELS, device=first.device)
        if self._short is not None:
            # The first prompt without the prefix is another context as well, at times a very different one.
            reference = self._plain(rows[1:], 1 + PROMPT + LEVELS)[:, len(second) + places]
            other = self._plain([rows[0][-PROMPT - LEVELS :]], PROMPT + LEVELS)[0, len(first) - 1 + places]
            contrast = torch.minimum(self._contrast(reference[0], other), self._short._reference[1])
        else:
            logits = self._plain(rows, 1 + PROMPT + LEVELS)  # from the prefix's last token on
            reference = torch.stack([logits[0, len(first) + places], logits[1, len(second) + places]])
            contrast = self._contrast(reference[0], reference[1])
            # The prefix's end stands before all that differs. NaN is greater than nothing.
            before = (logits[0, :1] - logits[1, :1]).norm(dim=-1)
            if bool((before > self._tolerance(logits[:, :1], contrast.amax().view(1))[0]).all()):
                raise ValueError(
                    f"`{type(self.backbone).__name__}` cannot recommend: its logits depend on the tokens behind "
                    "them, so that it is no causal language model. Use another backbone, or load it with "
                    "`is_decoder=True` if it has that setting."
                )
        # Untrained weights may be so small that contexts hardly matter: such a finding is used, but not kept.
        is_clear = bool((self._rounding(reference) < 0.5 * contrast).all())
        return reference, contrast, is_clear

    def _plain(self, rows: list[torch.Tensor], kept: int) -> torch.Tensor:
        """Centred logits of the last tokens of rows of one length, `(rows, kept, vocabulary)`."""
        kwargs: dict[str, Any] = {"use_cache": False, "logits_to_keep": kept}
        kwargs = {name: value for name, value in kwargs.items() if takes_argument(self.backbone, name)}
        try:
            return _centred(self._forward(input_ids=torch.stack(rows), **kwargs)[:, -kept:])
        except Exception as error:
            raise ValueError(
                f"`{type(self.backbone).__name__}` cannot recommend: a plain forward pass of {len(rows[0])} tokens "
                f"ends in {type(error).__name__}: {error}. Use another backbone."
            ) from error

    @staticmethod
    def _contrast(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Size of the difference of logits, `(1 + levels,)`."""
        return (one - other).norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)

    def _rounding(self, reference: torch.Tensor) -> torch.Tensor:
        return ROUNDING_STEPS * torch.finfo(self.dtype).eps * reference.norm(dim=-1)

    def _tolerance(self, reference: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
        share = TOLERANCES[self.dtype]
        if _is_quantized(self.backbone):
            share = max(share, TOLERANCES[torch.bfloat16])
        elif self.dtype == torch.float32 and self._device.type == "cuda":
            share = max(share, TOLERANCES[torch.float16] / 5)  # products of matrices may be in TF32
        return torch.maximum(share * contrast, self._rounding(reference))

    def _forward(self, cache: Any = None, return_cache: bool = False, **inputs):
        return run_forward(self.backbone, self._cache_argument, cache, return_cache, **inputs)

    def _run(self, kind: str) -> torch.Tensor:
        tree = self._tree
        arguments = (self.backbone, self._forward, tree.input_ids, tree.attention_mask, self._prefix)
        if kind == "packed":
            packed = PackedPasses(*arguments)
            # Nodes by number: the prompts' ends, then two of each prompt a level. All levels but the first are left
            # to the passes of kind "tree", whose mask is the same.
            parents = torch.arange(len(tree.input_ids), device=tree.prefix_ids.device).repeat_interleave(2)
            found = [packed.prompt_logits(), packed.extend(parents, tree.token_ids[0].flatten())[1::2]]
            return torch.stack(found, dim=1)
        passes: Any = KINDS[kind](*arguments)
        nodes = torch.zeros_like(tree.token_ids[0])
        found = [passes.prompt_logits()[:, 0]]
        for level, token_ids in enumerate(tree.token_ids):
            found.append(passes.extend(nodes, token_ids)[:, 1])
            nodes = torch.arange(1 + 2 * level, 3 + 2 * level, device=nodes.device).expand_as(nodes)
        return torch.stack(found, dim=1)


def fastest_kind(probe: Probe) -> str:
    """The fastest kind of passes, of `KINDS`, that gives a backbone's logits; warns once where that is a slow one."""
    kind = next(kind for kind in KINDS if probe.agrees(kind))
    if kind != "tree":
        implementation = probe.backbone.config._attn_implementation
        cost = {
            "copies": "with a copy of the cache each: slower and with more memory",
            "plain": "by a forward pass of the whole sequence each, which is slow",
        }[kind]
        hint = "" if implementation in ("sdpa", "eager") else " Load it with `attn_implementation='sdpa'`, if it can."
        logger.warning_once(
            f"`{type(probe.backbone).__name__}` with attention {implementation!r} cannot decode candidates as a tree: "
            f"tried on a small one, it gave other logits than plain forward passes. They are decoded {cost}. The "
            f"results are the same.{hint}"
        )
    return kind


def _centred(logits: torch.Tensor) -> torch.Tensor:
    """Without what all tokens share, which no probability depends on."""
    logits = logits.float()
    return logits - logits.mean(-1, keepdim=True)


def _is_quantized(backbone: PreTrainedModel) -> bool:
    """By the types of the weights: a quantised recommender says so of itself, not of the backbone in it."""
    return not all(parameter.is_floating_point() for parameter in backbone.parameters())


def _computed_dtype(backbone: PreTrainedModel) -> torch.dtype:
    """The type that products of matrices are as precise as, whatever the weights are stored in."""
    kind = input_device(backbone).type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else backbone.dtype
    if dtype == torch.float32:
        precision = torch.get_float32_matmul_precision()
        return {"medium": torch.bfloat16, "high": torch.float16}.get(precision, dtype)
    return dtype


def _fixed_settings(backbone: PreTrainedModel) -> str:
    """The configuration as text, without what says nothing about the layers."""
    settings = backbone.config.to_dict()
    for name in ("_name_or_path", "use_cache", "output_router_logits", "router_aux_loss_coef", "dtype"):
        settings.pop(name, None)
    return repr(sorted(settings.items(), key=lambda item: item[0]))


def _numbers_of(settings: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """All whole numbers in a configuration, however deep, with their names."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _numbers_of(value, str(key))
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _numbers_of(value, name)
    elif isinstance(settings, int) and not isinstance(settings, bool):
        yield name, settings


def _lengths_of(settings: dict[str, Any]) -> Iterator[int]:
    """Numbers that may be lengths from which on a backbone treats sequences otherwise."""
    for name, value in _numbers_of(settings):
        if value > PREFIX + PROMPT and (LENGTHS.search(name) or not NO_LENGTHS.search(name)):
            yield value
