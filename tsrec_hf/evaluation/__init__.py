"""How good recommendations are: metrics of ranks, an evaluator over a split, and the baselines any model must beat."""

from .baselines import NextItemRecommender, PopularityRecommender, baseline_results
from .bootstrap import PairedDifference, paired_bootstrap
from .comparison import Comparison, compare_with_baselines
from .evaluator import RecommendationEvaluator
from .metrics import hit_rate_at_k, ndcg_at_k, target_ranks
from .prior_fitting import PriorFit, fit_prior
from .report import metrics_table, results_table
from .sharding import recommend_distributed


__all__ = [
    "Comparison",
    "NextItemRecommender",
    "PairedDifference",
    "PopularityRecommender",
    "PriorFit",
    "RecommendationEvaluator",
    "baseline_results",
    "compare_with_baselines",
    "fit_prior",
    "hit_rate_at_k",
    "metrics_table",
    "ndcg_at_k",
    "paired_bootstrap",
    "recommend_distributed",
    "results_table",
    "target_ranks",
]
