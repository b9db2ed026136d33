"""Base of our modules of `evaluate`: inputs, the checks that `evaluate` leaves out, and cut-offs."""

import inspect
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence

import datasets
import evaluate
import torch

from .ranks import target_ranks


INPUTS_DESCRIPTION = """
Args:
    predictions (`list[list[str]]`):
        A list of recommendations per user, best first: item ids, or SIDs. It may be shorter than `k`, or empty.
    references (`list[str]`):
        The item, or SID, that each user took.
    k (`int` or `list[int]`, *optional*, defaults to `10`):
        Cut-offs: recommendations after the first `k` do not count.

Returns:
    `dict[str, float]`: The metric by name and cut-off, from 0 to 1 (best); `None` in processes other than the first.
"""


class RankMetric(evaluate.Metric, ABC):
    """
    A metric of the rank at which the one item that a user took was recommended.

    A subclass has a docstring that ends with an example, a `citation`, and the metric itself as `score`. `evaluate`
    instantiates the first class of a module's file that is not abstract, so this one has to be abstract.
    """

    citation: str

    @staticmethod
    @abstractmethod
    def score(ranks: torch.Tensor, k: int) -> torch.Tensor:
        """The metric at one cut-off, for ranks of shape `(num_users,)`, `-1` where the item is absent."""

    def _info(self) -> evaluate.MetricInfo:
        docstring = inspect.getdoc(type(self))
        assert docstring is not None  # every metric has one, which `evaluate` shows
        description, example = docstring.split("Example:")
        return evaluate.MetricInfo(
            description=description,
            citation=self.citation,
            inputs_description=f"{INPUTS_DESCRIPTION}\nExample:{example}",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("string")), "references": datasets.Value("string")}
            ),
        )

    def add_batch(self, *, predictions=None, references=None) -> None:
        """Adds the lists and items of some users."""
        # `evaluate` looks at the first row only and reads a string in another as the list of its letters.
        for row, items in enumerate(predictions if predictions is not None else ()):
            if isinstance(items, str):
                raise ValueError(
                    f"Expected a list of recommendations per user, but found the string {items!r} in row {row}. Pass "
                    "`predictions=[[...], [...]]`."
                )
        evaluate.Metric.add_batch(self, predictions=predictions, references=references)

    def _compute(
        self, predictions: Sequence[Sequence[str]], references: Sequence[str], k: int | Sequence[int] = 10
    ) -> dict[str, float]:
        try:
            cut_offs = [operator.index(cut) for cut in (k if isinstance(k, Sequence) else [k])]
        except TypeError:
            cut_offs = []
        if not cut_offs or isinstance(k, str):
            raise ValueError(f"Expected a cut-off or a list of them, but found k={k!r}. Pass `k=10` or `k=[1, 10]`.")
        nothing = next((row for row, items in enumerate(zip(predictions, references)) if _holds_none(*items)), None)
        if nothing is not None:
            raise ValueError(f"Expected item ids, but found `None` in row {nothing}. Leave users without an item out.")
        ranks = target_ranks(predictions, references)
        return {f"{self.name}@{cut}": self.score(ranks, cut).item() for cut in cut_offs}


def _holds_none(items: Sequence[str | None], reference: str | None) -> bool:
    return reference is None or None in items
