from .accuracy import exact_match_reward, prefix_reward, ranking_reward
from .adapter import CompletionReader, RewardOnCodes
from .affinity import collaborative_reward, description_similarities, semantic_reward


__all__ = [
    "CompletionReader",
    "RewardOnCodes",
    "collaborative_reward",
    "description_similarities",
    "exact_match_reward",
    "prefix_reward",
    "ranking_reward",
    "semantic_reward",
]
