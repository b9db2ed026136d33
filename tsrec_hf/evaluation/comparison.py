"""A recommender beside what is free: popularity, counts and its own prior, on the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from datasets import Dataset

from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types

from .baselines import NextItemRecommender, PopularityRecommender
from .bootstrap import PairedDifference, paired_bootstrap
from .evaluator import RecommendationEvaluator, Results
from .report import metrics_table


MODEL, FUSED = "model", "model and prior"


@dataclass(frozen=True)
class Comparison:
    """
    Result of [`compare_with_baselines`]; printed, it is a table with the differences below it.

    Attributes:
        results (`dict`): Metrics by method, as [`RecommendationEvaluator.evaluate`] returns them.
        ranks (`dict[str, torch.Tensor]`): Rank of each row's target by method, as [`paired_bootstrap`] takes them.
        users (`Sequence[str]`): User of each row.
    """

    results: dict[str, Results]
    ranks: dict[str, torch.Tensor] = field(repr=False)
    users: Sequence[str] = field(repr=False)

    def difference(self, method: str, other: str, metric: str = "ndcg@10") -> PairedDifference:
        """
        One method's metric minus another's, by a paired bootstrap over users.

        Raises:
            `ValueError`: a cut-off that the beams of one of them did not reach.
        """
        short = [name for name in (method, other) if metric not in self.results[name]["all"]]
        if short:
            raise ValueError(
                f"Expected a metric of {method!r} and {other!r}, but found {metric!r}, which {short[0]!r} has not. "
                "Its lists are no longer than the beams: compare at a lower cut-off, or search with more `num_beams`."
            )
        return paired_bootstrap(self.ranks[method], self.ranks[other], metric, self.users)

    def __str__(self) -> str:
        # The cut-offs that all lists reach.
        common = set.intersection(*(set(slices["all"]) for slices in self.results.values()))
        shown = {
            method: {
                name: {metric: value for metric, value in metrics.items() if metric in common}
                for name, metrics in slices.items()
            }
            for method, slices in self.results.items()
        }
        lines = [metrics_table(shown), ""]
        rivals = [name for name in self.ranks if name not in (MODEL, FUSED)]
        for method, others in ((MODEL, rivals), (FUSED, [*rivals, MODEL])):
            for other in others if method in self.ranks else ():
                cut = max(int(name[3:]) for name in self.results[method]["all"] if name.startswith("hr@"))
                names = (f"HR@{cut}", f"NDCG@{cut}")
                found = {name: self.difference(method, other, name.lower()) for name in names}
                differences = (
                    f"{name} {d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}]" for name, d in found.items()
                )
                lines.append(f"{method} minus {other}: {', '.join(differences)}")
        return "\n".join(lines)


@checks_types
def compare_with_baselines(
    model: TSRecForCausalLM,
    tokenizer: TSRecTokenizer,
    rows: Dataset,
    train: Dataset,
    num_beams: int = 50,
    batch_size: int = 16,
    scoring: str = "catalogue",
    exclude_history: bool = False,
    progress: bool = False,
) -> Comparison:
    r"""
    Recommends for the same rows by popularity, by next-item counts, by the model, and, where the checkpoint has an
    item prior, by the prior alone and by both together.

    In a distributed run every process calls this, and the rows are shared among them.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer, perhaps with a prior of [`fit_prior`].
        rows (`datasets.Dataset`):
            Rows to score, with `user_id`, `history` and `target`.
        train (`datasets.Dataset`):
            Training rows, which the baselines count.
        num_beams (`int`, *optional*, defaults to `50`):
            Beams of the search.
        batch_size (`int`, *optional*, defaults to `16`):
            Rows searched together.
        scoring (`str`, *optional*, defaults to `"catalogue"`):
            As in [`TSRecForCausalLM.recommend`].
        exclude_history (`bool`, *optional*, defaults to `False`):
            Whether no method may recommend items of the row's own history: right where nobody takes an item twice.
        progress (`bool`, *optional*, defaults to `False`):
            Whether to show progress bars.

    Returns:
        [`Comparison`]: Metrics and ranks of `popularity`, `next-item counts`, `prior`, `model` and `model and prior`.

    Example:

    ```python
    >>> from tsrec_hf import compare_with_baselines

    >>> comparison = compare_with_baselines(model, tokenizer, dataset.test, dataset.train, num_beams=7)
    >>> list(comparison.results)
    ['popularity', 'next-item counts', 'model']
    >>> comparison.difference("model", "popularity", "hr@10").difference <= 1
    True
    ```
    """
    rows = rows.with_format(None)  # lists of Python, whatever format the caller set
    evaluator = RecommendationEvaluator(rows, tokenizer.sid_index, train)
    histories, top_k = rows["history"][:], evaluator.top_k
    # Lists that stay long enough without the history's items.
    longest = top_k + (max(map(len, histories)) if exclude_history else 0)
    lists = {
        "popularity": PopularityRecommender(train).recommend(histories, longest),
        "next-item counts": NextItemRecommender(train).recommend(histories, longest),
    }
    if tokenizer.prior is not None:
        lists["prior"] = evaluator.recommend_by_prior(tokenizer.prior, longest)
    if exclude_history:
        lists = {name: _without(found, histories, top_k) for name, found in lists.items()}
    cuts: dict[str, int | None] = dict.fromkeys(lists)
    settings = {"scoring": scoring, "exclude_history": exclude_history, "progress": progress}
    for name, prior in {MODEL: None, FUSED: "fitted"}.items():
        if name == MODEL or tokenizer.prior is not None:
            lists[name], cuts[name] = evaluator.recommend_by_model(
                model, tokenizer, num_beams, batch_size, prior=prior, **settings
            )
    results = {name: evaluator.evaluate(found, cuts[name]) for name, found in lists.items()}
    ranks = {name: evaluator.ranks(found) for name, found in lists.items()}
    return Comparison(results, ranks, rows["user_id"][:])


def _without(lists: Sequence[Sequence[str]], histories: Sequence[Sequence[str]], top_k: int) -> list[list[str]]:
    """The first items of each list that are not in its history."""
    return [
        [item for item in found if item not in past][:top_k]
        for found, past in zip(lists, map(frozenset, histories), strict=True)
    ]
