"""Rewards for reinforcement learning: functions of codes and items, and what makes them TRL's reward functions."""

from .accuracy import exact_match_reward, prefix_reward, ranking_reward
from .adapter import CompletionReader, Reward, RewardOnCodes, summed
from .affinity import collaborative_reward, companions, description_similarities, semantic_reward
from .by_name import REWARDS, rewards_by_name


__all__ = [
    "CompletionReader",
    "REWARDS",
    "Reward",
    "RewardOnCodes",
    "collaborative_reward",
    "companions",
    "description_similarities",
    "exact_match_reward",
    "prefix_reward",
    "ranking_reward",
    "rewards_by_name",
    "semantic_reward",
    "summed",
]
