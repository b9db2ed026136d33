"""
Metrics of recommendations over a split, by item and by SID, for all rows and for slices of them.

The published tables match SID strings, which counts every item of a collision as a hit. Here the item is what counts;
the SID metrics stand beside it for comparison.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset

from tsrec_hf.models import ItemPrior, SIDIndex, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types

from .metrics import hit_rate_at_k, ndcg_at_k, target_ranks
from .report import MATCH_PREFIXES
from .sharding import recommend_distributed
from .slices import find_slices


logger = logging.getLogger(__name__)

# Users whose weights of all items are held together.
PRIOR_BATCH = 64
# Metrics of one method: by slice, then by name.
Results = dict[str, dict[str, float]]


class RecommendationEvaluator:
    r"""
    Scores lists of recommendations against the targets of a split.

    Results come in slices of the rows:

    - `all`: every row;
    - `cold`: the target occurs nowhere in `train`, neither as a target nor in a history;
    - `repeat`: the target is in the row's own history;
    - `new`: neither cold nor repeat; a row may be both of these;
    - `memorised`: the target followed an item of the row's history in training, which is all that counting transitions
      can know. It followed an item if a row of `train` has it as its target and the item anywhere in its history;
    - `unmemorised`: it followed none of them, so that a model has to generalise.

    Each slice holds `num_rows`, `hr@k` and `ndcg@k` (the target item is in the list) and `sid_hr@k` and `sid_ndcg@k`
    (the list is read as SIDs, each at its first place; the target's SID is among them). A slice without rows holds
    only `num_rows`. Metrics at a cut-off that the lists do not reach, because a search had fewer beams, are left out:
    their targets were not missed but never looked for.

    Args:
        rows (`datasets.Dataset`):
            The split to score, with the columns `history` and `target`.
        sid_index ([`SIDIndex`]):
            Semantic IDs of the catalogue.
        train (`datasets.Dataset`):
            The rows the model was trained on, with the same columns; they decide which rows are cold or memorised.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 3, 5, 10)`):
            Cut-offs.

    Attributes:
        top_k (`int`):
            How many items a list needs so that its SID metrics are exact: enough to hold `max(ks)` distinct SIDs,
            however many places items with a shared SID take.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf import SIDIndex
    >>> from tsrec_hf.evaluation import RecommendationEvaluator

    >>> index = SIDIndex(["1", "2", "3"], [[0, 0], [0, 1], [0, 1]])
    >>> train = Dataset.from_dict({"history": [["1"]], "target": ["2"]})
    >>> test = Dataset.from_dict({"history": [["1"], ["1", "2"]], "target": ["3", "2"]})
    >>> evaluator = RecommendationEvaluator(test, index, train, ks=(1, 2))
    >>> evaluator.top_k
    3
    >>> results = evaluator.evaluate([["2", "3"], ["2", "1"]])
    >>> results["all"]["hr@1"], results["all"]["sid_hr@1"]  # Items 2 and 3 share their SID.
    (0.5, 1.0)
    >>> {name: metrics["num_rows"] for name, metrics in results.items()}
    {'all': 2, 'cold': 1, 'repeat': 1, 'new': 0, 'memorised': 1, 'unmemorised': 1}
    ```
    """

    @checks_types
    def __init__(self, rows: Dataset, sid_index: SIDIndex, train: Dataset, ks: Sequence[int] = (1, 3, 5, 10)):
        self.ks = tuple(sorted(set(ks)))
        if not self.ks or self.ks[0] < 1:
            raise ValueError(
                f"Expected cut-offs of at least 1, but found ks={tuple(ks)}. Pass, for example, `ks=(1, 10)`."
            )
        # Lists of Python, whatever format the caller set.
        rows, train = rows.with_format(None), train.with_format(None)
        self._histories, self._targets = rows["history"][:], rows["target"][:]
        if not self._targets:
            raise ValueError("Expected at least one row to evaluate, but `rows` is empty. Pass a split that has rows.")
        spelled = map(sid_index.spell, sid_index.codes.tolist())
        self._sid_of = dict(zip(sid_index.item_ids, spelled))
        self._check_known([[target] for target in self._targets], "target")
        self._target_sids = [self._sid_of[target] for target in self._targets]
        self._slices = find_slices(self._histories, self._targets, train)

        # The worst list begins with all items of the largest collisions: one more item is the next SID.
        sizes = np.sort(np.unique(sid_index.codes, axis=0, return_counts=True)[1])[::-1]
        self._num_sids = len(sizes)
        self._warned_of_beams: set[int] = set()
        self.top_k = min(int(sizes[: self.ks[-1] - 1].sum()) + 1, len(sid_index))

    def evaluate(self, recommended: Sequence[Sequence[str]], top_k: int | None = None) -> Results:
        """
        Scores one list of recommendations per row.

        Args:
            recommended (`Sequence[Sequence[str]]`):
                Item ids per row, best first, without repeats, in the order of the rows. With `top_k` items each, the
                SID metrics are exact.
            top_k (`int`, *optional*):
                Where the lists were cut: metrics beyond it are left out. By default a short list is a whole one, and
                all behind its end counts as a miss.

        Returns:
            `dict[str, dict[str, float]]`: Metrics by slice.
        """
        item_ranks, sid_ranks = self._item_and_sid_ranks(recommended)
        reached = {"": self._reached(recommended, top_k), "sid_": self._reached_sids(recommended, top_k)}
        return {name: self._score(item_ranks[rows], sid_ranks[rows], reached) for name, rows in self._slices.items()}

    def ranks(self, recommended: Sequence[Sequence[str]], match: Literal["item", "sid"] = "item") -> torch.Tensor:
        """
        Position of each row's target in its list, which [`paired_bootstrap`] compares between two recommenders.

        Args:
            recommended (`Sequence[Sequence[str]]`):
                Item ids per row, as [`RecommendationEvaluator.evaluate`] takes them.
            match (`str`, *optional*, defaults to `"item"`):
                What counts as a hit: `"item"` for the item itself, `"sid"` for its SID.

        Returns:
            `torch.Tensor` of shape `(num_rows,)`: 0-based position of the target; `-1` when it is absent.
        """
        if match not in MATCH_PREFIXES:
            raise ValueError(f"Expected `match` to be one of {list(MATCH_PREFIXES)}, but found {match!r}.")
        item_ranks, sid_ranks = self._item_and_sid_ranks(recommended)
        return item_ranks if match == "item" else sid_ranks

    def evaluate_model(
        self,
        model: TSRecForCausalLM,
        tokenizer: TSRecTokenizer,
        num_beams: int = 50,
        batch_size: int = 16,
        **search: Any,
    ) -> Results:
        """
        Lets a model recommend for every row, and scores its lists.

        In a distributed run every process calls this: each searches for a share of the rows, and all return the
        same results.

        Args:
            model ([`TSRecForCausalLM`]):
                The recommender.
            tokenizer ([`TSRecTokenizer`]):
                Its tokenizer.
            num_beams (`int`, *optional*, defaults to `50`):
                Beams of the search. `max(ks)` find enough SIDs, `top_k` make the SID metrics exact; with fewer,
                metrics beyond them are left out, and a warning says so.
            batch_size (`int`, *optional*, defaults to `16`):
                Rows that are searched together.
            search (*optional*):
                Other arguments of [`TSRecForCausalLM.recommend`]: `search`, `scoring`, `progress`, ...

        Returns:
            `dict[str, dict[str, float]]`: Metrics by slice, as [`RecommendationEvaluator.evaluate`] returns them.
        """
        return self.evaluate(*self.recommend_by_model(model, tokenizer, num_beams, batch_size, **search))

    def recommend_by_model(
        self, model: TSRecForCausalLM, tokenizer: TSRecTokenizer, num_beams: int, batch_size: int, **search: Any
    ) -> tuple[list[list[str]], int | None]:
        """
        A model's list of item ids for every row, and where the beams have cut them short, as
        [`RecommendationEvaluator.evaluate`] takes both; arguments are those of
        [`RecommendationEvaluator.evaluate_model`].
        """
        if num_beams < min(self.ks[-1], self._num_sids) and num_beams not in self._warned_of_beams:
            self._warned_of_beams.add(num_beams)  # once, however many models are compared
            logger.warning(
                f"{num_beams} beams find at most {num_beams} SIDs, so metrics at higher cut-offs are not reported. "
                f"Pass `num_beams={self.ks[-1]}` or more."
            )
        num_beams = self.enough_beams(num_beams)
        # The model gives no more items than it has beams.
        settings = {"top_k": min(self.top_k, num_beams), "num_beams": num_beams, "batch_size": batch_size, **search}

        def recommend(share: list[Sequence[str]]) -> list[list[str]]:
            lists = model.recommend(tokenizer, share, **settings)
            return [[recommendation.item_id for recommendation in items] for items in lists]

        return recommend_distributed(recommend, self._histories), self.asked_for(settings["top_k"])

    def enough_beams(self, num_beams: int) -> int:
        """Beams for all items that the metrics count, where `num_beams` hold every SID of the catalogue anyway."""
        return max(num_beams, self.top_k) if num_beams >= self._num_sids else num_beams

    def asked_for(self, top_k: int) -> int | None:
        """Where lists of `top_k` items are cut; `None` where they hold all that the metrics count."""
        return top_k if top_k < self.top_k else None

    def evaluate_prior(self, prior: ItemPrior) -> Results:
        """
        Scores what an item prior recommends without a model: the items of the highest weights.

        Args:
            prior ([`ItemPrior`]):
                A prior of the evaluator's index.

        Returns:
            `dict[str, dict[str, float]]`: Metrics by slice, as [`RecommendationEvaluator.evaluate`] returns them.
        """
        return self.evaluate(self.recommend_by_prior(prior, self.top_k))

    def recommend_by_prior(self, prior: ItemPrior, top_k: int) -> list[list[str]]:
        """The `top_k` item ids of the highest weights for every row, best first."""
        ids, lists = prior.index.item_ids, []
        for start in range(0, len(self._histories), PRIOR_BATCH):
            users = range(start, min(start + PRIOR_BATCH, len(self._histories)))
            weights = prior.weights_of(self._histories, users).to_dense()
            # A stable sort: items of equal weight stand in index order.
            best = weights.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
            lists += [[ids[item] for item in row] for row in best.tolist()]
        return lists

    def _item_and_sid_ranks(self, recommended: Sequence[Sequence[str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Checks the lists, and finds each row's target in them by item and by SID; both of shape `(num_rows,)`."""
        item_ranks = target_ranks(recommended, self._targets)
        self._check_known(recommended, "recommended")
        repeated = next((row for row, items in enumerate(recommended) if len(set(items)) != len(items)), None)
        if repeated is not None:
            raise ValueError(
                f"Expected lists without repeats, but the list of row {repeated} names an item twice: "
                f"{list(recommended[repeated])}. Keep the first of each."
            )
        sids = [list(dict.fromkeys(self._sid_of[item] for item in items)) for items in recommended]
        self._warn_if_cut_short(recommended, sids)
        return item_ranks, target_ranks(sids, self._target_sids)

    def _check_known(self, lists: Sequence[Sequence[str]], kind: str) -> None:
        unknown = set(chain.from_iterable(lists)).difference(self._sid_of)
        if unknown:
            row, item = next((row, item) for row, items in enumerate(lists) for item in items if item in unknown)
            raise ValueError(
                f"Expected {kind} items from the {len(self._sid_of)} of `sid_index`, but {len(unknown)} are unknown, "
                f"first {item!r} in row {row}. Pass the index of this catalogue, and ids as strings."
            )

    def _warn_if_cut_short(self, recommended: Sequence[Sequence[str]], sids: list[list[str]]) -> None:
        """A list of `max(ks)` items, some with a shared SID, holds fewer SIDs: its last places count as misses."""
        enough = min(self.ks[-1], self._num_sids)
        cut = sum(
            self.ks[-1] <= len(items) < self.top_k and len(found) < enough for items, found in zip(recommended, sids)
        )
        if cut:
            logger.warning(
                f"{cut} of {len(sids)} lists hold fewer than {enough} distinct SIDs because some of their items share "
                f"one, so the SID metrics may be too low. Recommend `top_k={self.top_k}` items, a model with as many "
                "beams."
            )

    def _reached(self, recommended: Sequence[Sequence[str]], top_k: int | None) -> list[int]:
        """The cut-offs that all lists reach, by item."""
        if top_k is None or not any(len(items) >= top_k for items in recommended):
            return list(self.ks)
        return [k for k in self.ks if k <= top_k]

    def _reached_sids(self, recommended: Sequence[Sequence[str]], top_k: int | None) -> list[int]:
        """The cut-offs that all lists reach, by SID: those that were cut have as many distinct ones."""
        if top_k is None:
            return list(self.ks)
        cut = [len({self._sid_of[item] for item in items}) for items in recommended if len(items) >= top_k]
        fewest = min(cut, default=self._num_sids)
        return [k for k in self.ks if k <= fewest or fewest == self._num_sids]

    def _score(
        self, item_ranks: torch.Tensor, sid_ranks: torch.Tensor, reached: dict[str, list[int]]
    ) -> dict[str, float]:
        scores: dict[str, float] = {"num_rows": len(item_ranks)}
        if len(item_ranks):
            for prefix, ranks in (("", item_ranks), ("sid_", sid_ranks)):
                scores |= {f"{prefix}hr@{k}": hit_rate_at_k(ranks, k).item() for k in reached[prefix]}
                scores |= {f"{prefix}ndcg@{k}": ndcg_at_k(ranks, k).item() for k in reached[prefix]}
        return scores
