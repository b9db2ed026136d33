"""NDCG as a module of `evaluate`, for scripts that take their metrics from there."""

from tsrec_hf.evaluation import ndcg_at_k
from tsrec_hf.evaluation.metrics.rank_metric import RankMetric


class Ndcg(RankMetric):
    """
    Normalised discounted cumulative gain at k (NDCG@k) where one item is relevant: the mean over users of
    `1 / log2(place + 1)` for the place, from 1, at which their item was recommended to them, and of 0 where it is not
    among the first `k`.

    Example:

    ```python
    >>> import evaluate

    >>> ndcg = evaluate.load("tsrec_hf/evaluation/metrics/ndcg")
    >>> ndcg.compute(predictions=[["saw", "pear", "nail"], ["pear"]], references=["nail", "bread"], k=[1, 3])
    {'ndcg@1': 0.0, 'ndcg@3': 0.25}
    ```
    """

    citation = """
@article{jarvelin2002cumulated,
    title = {Cumulated gain-based evaluation of {IR} techniques},
    author = {J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
    journal = {ACM Transactions on Information Systems},
    volume = {20},
    number = {4},
    pages = {422--446},
    year = {2002},
    doi = {10.1145/582415.582418}
}
"""
    score = staticmethod(ndcg_at_k)
