"""The hit rate as a module of `evaluate`, for scripts that take their metrics from there."""

from tsrec_hf.evaluation import hit_rate_at_k
from tsrec_hf.evaluation.metrics.rank_metric import RankMetric


class HitRate(RankMetric):
    """
    Hit rate at k (HR@k; recall@k where one item is relevant): the share of users whose item is among the first `k`
    that were recommended to them.

    Example:

    ```python
    >>> import evaluate

    >>> hit_rate = evaluate.load("tsrec_hf/evaluation/metrics/hit_rate")
    >>> hit_rate.compute(predictions=[["saw", "nail"], ["pear"]], references=["nail", "bread"], k=[1, 2])
    {'hit_rate@1': 0.0, 'hit_rate@2': 0.5}
    ```
    """

    citation = """
@article{deshpande2004item,
    title = {Item-based top-{N} recommendation algorithms},
    author = {Deshpande, Mukund and Karypis, George},
    journal = {ACM Transactions on Information Systems},
    volume = {22},
    number = {1},
    pages = {143--177},
    year = {2004},
    doi = {10.1145/963770.963776}
}
"""
    score = staticmethod(hit_rate_at_k)
