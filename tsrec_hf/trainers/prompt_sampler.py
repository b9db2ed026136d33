"""The order in which GRPO takes its prompts."""

from collections.abc import Iterator

import torch
from trl.trainer.utils import RepeatSampler


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
