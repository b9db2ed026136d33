"""The order in which trainers take their rows."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler


class PassSeededSampler(Sampler):
    r"""
    Draws every pass of a sampler from a seed of its own. A sampler that goes on with one generator gives a run that is
    resumed in a later pass the order of the first one: rows that it has not taken yet are left out, others come twice.

    Args:
        sampler (`Sampler`):
            A sampler with an attribute `generator`.
        seed (`int`):
            Seed of the first pass.
        num_passes (`Callable`):
            Gives how many passes are done.

    Example:

    ```python
    >>> from tsrec_hf.trainers.prompt_sampler import PassSeededSampler, WholePassSampler

    >>> sampler = WholePassSampler(list("abcd"), mini_repeat_count=1, batch_size=2, seed=0)
    >>> orders = [list(PassSeededSampler(sampler, 0, lambda: number)) for number in (0, 1, 0)]
    >>> orders[0] == orders[2] != orders[1]
    True
    ```
    """

    def __init__(self, sampler: Any, seed: int, num_passes: Callable[[], int]):
        self.sampler, self.seed, self.num_passes = sampler, seed, num_passes

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator = torch.Generator().manual_seed(self.seed + self.num_passes())
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class WholePassSampler(RepeatSampler):
    r"""
    TRL's sampler, with every prompt in every pass: the last generation batch is filled up with the first prompts of
    the pass, where TRL leaves its prompts out.

    Args:
        data_source, mini_repeat_count, batch_size, repeat_count, shuffle, seed:
            As TRL's.

    Example:

    ```python
    >>> from tsrec_hf.trainers.prompt_sampler import WholePassSampler

    >>> list(WholePassSampler(["a", "b", "c", "d", "e"], mini_repeat_count=1, batch_size=2, shuffle=False))
    [0, 1, 2, 3, 4, 0]
    ```
    """

    @classmethod
    def like(cls, sampler: RepeatSampler) -> "WholePassSampler":
        """A sampler with the settings of one of TRL's."""
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return cls(**{name: getattr(sampler, name) for name in names})

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.num_samples))
        if self.shuffle:
            order = torch.randperm(self.num_samples, generator=self.generator).tolist()
        order += order[: -len(order) % self.batch_size]
        for start in range(0, len(order), self.batch_size):
            for _ in range(self.repeat_count):
                for prompt in order[start : start + self.batch_size]:
                    yield from [prompt] * self.mini_repeat_count

    def __len__(self) -> int:
        num_batches = -(-self.num_samples // self.batch_size)
        return num_batches * self.batch_size * self.mini_repeat_count * self.repeat_count
