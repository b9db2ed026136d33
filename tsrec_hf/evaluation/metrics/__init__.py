"""
Metrics of ranks, as functions of tensors; beside them, as modules for `evaluate.load`, the folders `hit_rate` and
`ndcg`, which nothing here imports.
"""

from .ranks import hit_rate_at_k, ndcg_at_k, target_ranks


__all__ = ["hit_rate_at_k", "ndcg_at_k", "target_ranks"]
