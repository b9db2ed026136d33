"""
Baselines that only count: a model is worth its cost only where it beats them.

Ties are broken by id: shorter ids first, ids of one length in alphabetical order. Numeric ids are then in numerical
order, and the ranking does not depend on the order of the rows.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain

from datasets import Dataset

from tsrec_hf.models.checking_tsrec import checks_types

from .evaluator import RecommendationEvaluator, Results


class PopularityRecommender:
    r"""
    Recommends the most frequent targets, the same list to every user.

    Args:
        train (`datasets.Dataset`):
            Rows with the column `target`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.evaluation import PopularityRecommender

    >>> train = Dataset.from_dict({"history": [["1"], ["2"], ["1"]], "target": ["3", "3", "2"]})
    >>> PopularityRecommender(train).recommend([["1"], ["3"]], top_k=2)
    [['3', '2'], ['3', '2']]
    ```
    """

    @checks_types
    def __init__(self, train: Dataset):
        self._ranking = _by_count(Counter(train["target"][:]))

    def recommend(self, histories: Sequence[Sequence[str]], top_k: int = 10) -> list[list[str]]:
        """
        The most popular items for every history.

        Args:
            histories (`Sequence[Sequence[str]]`):
                Item ids per user; only their number matters.
            top_k (`int`, *optional*, defaults to `10`):
                Length of the lists. They are shorter where fewer items were ever a target.

        Returns:
            `list[list[str]]`: Item ids, best first, one list per history.
        """
        return [self._ranking[:top_k] for _ in histories]


class NextItemRecommender:
    r"""
    Recommends the items that most often followed the user's last item in training.

    For each item, the targets of the training rows whose history ends with it are ranked by count. A list starts with
    the ranking of the history's last item, continues with those of the items before it, and is filled up with the most
    popular targets.

    Args:
        train (`datasets.Dataset`):
            Rows with the columns `history` (oldest first) and `target`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.evaluation import NextItemRecommender

    >>> train = Dataset.from_dict({"history": [["1"], ["5", "1"], ["1"], ["2"]], "target": ["3", "4", "4", "7"]})
    >>> NextItemRecommender(train).recommend([["2", "1"], ["9"]], top_k=3)
    [['4', '3', '7'], ['4', '3', '7']]
    ```
    """

    @checks_types
    def __init__(self, train: Dataset):
        targets = train["target"][:]
        followers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for history, target in zip(train["history"][:], targets):
            if history:
                followers[history[-1]][target] += 1
        self._followers = {item: _by_count(counts) for item, counts in followers.items()}
        self._popular = _by_count(Counter(targets))

    def recommend(self, histories: Sequence[Sequence[str]], top_k: int = 10) -> list[list[str]]:
        """
        The likeliest next items of every history.

        Args:
            histories (`Sequence[Sequence[str]]`):
                Item ids per user, oldest first. An empty history gets the most popular items.
            top_k (`int`, *optional*, defaults to `10`):
                Length of the lists. They are shorter where fewer items were ever a target.

        Returns:
            `list[list[str]]`: Item ids, best first and without repeats, one list per history.
        """
        return [self._recommend_one(history, top_k) for history in histories]

    def _recommend_one(self, history: Sequence[str], top_k: int) -> list[str]:
        # A dict is an ordered set: an item keeps the place of its first mention.
        chosen: dict[str, None] = {}
        rankings = (self._followers.get(item, []) for item in reversed(history))
        for item in chain.from_iterable(chain(rankings, [self._popular])):
            if len(chosen) == top_k:
                break
            chosen[item] = None
        return list(chosen)


@checks_types
def baseline_results(
    evaluator: RecommendationEvaluator, train: Dataset, histories: Sequence[Sequence[str]]
) -> dict[str, Results]:
    r"""
    Evaluates the baselines on the rows that a model is evaluated on.

    Args:
        evaluator ([`RecommendationEvaluator`]):
            Knows the targets of these rows.
        train (`datasets.Dataset`):
            Rows to count, with the columns `history` and `target`.
        histories (`Sequence[Sequence[str]]`):
            The histories of the evaluator's rows, in their order.

    Returns:
        `dict[str, dict[str, dict[str, float]]]`: What [`RecommendationEvaluator.evaluate`] returns, for
        `"popularity"` and for `"next-item counts"`.

    Example:

    ```python
    >>> from tsrec_hf.evaluation import RecommendationEvaluator, baseline_results

    >>> evaluator = RecommendationEvaluator(dataset.test, dataset.sid_index, dataset.train, ks=(1, 5))
    >>> results = baseline_results(evaluator, dataset.train, dataset.test["history"][:])
    >>> {name: slices["all"]["hr@5"] for name, slices in results.items()}
    {'popularity': 0.5, 'next-item counts': 0.5}
    ```
    """
    baselines: dict[str, PopularityRecommender | NextItemRecommender] = {
        "popularity": PopularityRecommender(train),
        "next-item counts": NextItemRecommender(train),
    }
    return {
        name: evaluator.evaluate(baseline.recommend(histories, evaluator.top_k))
        for name, baseline in baselines.items()
    }


def _by_count(counts: Counter[str]) -> list[str]:
    """Items by decreasing count; ties go to the lower id."""
    return sorted(counts, key=lambda item: (-counts[item], len(item), item))
