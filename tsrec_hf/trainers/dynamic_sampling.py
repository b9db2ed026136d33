"""Dynamic sampling: groups whose rewards are all equal, which teach nothing, are replaced by other prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from .step_rewards import RewardCall


Row = dict[str, Any]


@dataclass
class ScoredGroup:
    """
    A prompt with its completions and their rewards.

    Attributes:
        row: The prompt's row of the data set.
        completion_ids: Token ids of each completion.
        calls: What each reward function gave.
        has_signal: Whether the advantages of the group are not all 0.
    """

    row: Row
    completion_ids: list[list[int]]
    calls: list[RewardCall]
    has_signal: bool


@dataclass
class Draw:
    """
    The groups of a batch.

    Attributes:
        groups: As many as prompts were wanted, those with a signal first.
        drawn: Prompts drawn for each that was wanted.
        with_signal: Share of the groups with a signal.
    """

    groups: list[ScoredGroup]
    drawn: float
    with_signal: float


def draw_groups_with_signal(
    rows: list[Row],
    dataset: Dataset,
    score: Callable[[list[Row]], list[ScoredGroup]],
    max_draws: int,
    generator: torch.Generator,
) -> Draw:
    """
    Finds groups whose rewards differ, for as many prompts as came: first those that came, then others at random.

    Where too few are found, groups without signal fill the batch.

    Args:
        rows (`list[dict]`):
            The prompts of the batch.
        dataset (`datasets.Dataset`):
            Where other prompts are drawn from.
        score (`Callable`):
            Generates and rewards the completions of prompts.
        max_draws (`int`):
            Most prompts to draw for each that is wanted.
        generator (`torch.Generator`):
            Source of randomness of the draws.
    """
    wanted = len(rows)
    found: list[ScoredGroup] = []
    spare: list[ScoredGroup] = []
    num_drawn = 0
    while True:
        for group in score(rows):
            (found if group.has_signal else spare).append(group)
        num_drawn += len(rows)
        if len(found) >= wanted or num_drawn + wanted > wanted * max_draws:
            break
        places = torch.randint(len(dataset), (wanted,), generator=generator).tolist()
        rows = [dataset[place] for place in places]
    return Draw((found + spare)[:wanted], num_drawn / wanted, min(1.0, len(found) / wanted))
