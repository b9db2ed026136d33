"""How good recommendations are: metrics of ranks, an evaluator over a split, and the floors any model must beat."""

from .evaluator import RecommendationEvaluator
from .floors import NextItemRecommender, PopularityRecommender
from .metrics import hit_rate_at_k, ndcg_at_k, target_ranks
from .report import metrics_table


__all__ = [
    "NextItemRecommender",
    "PopularityRecommender",
    "RecommendationEvaluator",
    "hit_rate_at_k",
    "metrics_table",
    "ndcg_at_k",
    "target_ranks",
]
