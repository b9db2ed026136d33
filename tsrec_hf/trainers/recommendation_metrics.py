"""HR and NDCG of recommendations among a trainer's evaluation metrics."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset

from tsrec_hf.evaluation import RecommendationEvaluator, baseline_results, recommend_distributed, target_ranks
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer

from .arguments import RecommenderArguments


logger = logging.getLogger(__name__)

# The sample of users is the same for every seed, so that runs can be compared.
SAMPLE_SEED = 0

Results = dict[str, dict[str, float]]


def user_sample(interactions: Dataset, num_users: int) -> Dataset:
    """The rows that are recommended for: the same whatever the seed of the run."""
    size = min(num_users, len(interactions))
    # Lists of Python, whatever format the caller set.
    return interactions.with_format(None).shuffle(seed=SAMPLE_SEED).select(range(size)).flatten_indices()


def evaluation_rows(interactions: Any, num_users: int, build: Callable[[Dataset], Dataset]) -> Any:
    """
    Rows for the loss of an evaluation, made of the interactions that are recommended for; by name where these have
    names.
    """
    if interactions is None or num_users == 0:
        return None
    if isinstance(interactions, Mapping):
        return {name: build(user_sample(rows, num_users)) for name, rows in interactions.items()}
    return build(user_sample(interactions, num_users))


def metrics_of_sets(
    interactions: Any, eval_dataset: Any, tokenizer: TSRecTokenizer, args: RecommenderArguments
) -> "RecommendationMetrics | dict[str, RecommendationMetrics] | None":
    """
    The metrics of each evaluation set that has interactions.

    Raises:
        `ValueError`: interactions that do not say which of several sets they belong to, or name one that is not there.
    """
    if interactions is None or args.eval_num_users == 0:
        return None
    names = list(eval_dataset) if isinstance(eval_dataset, Mapping) else None
    if not isinstance(interactions, Mapping):
        if names is not None:
            raise ValueError(
                f"Expected `eval_interactions` by the names of the evaluation sets, {names}, but found one data set, "
                f"whose recommendations would stand under all of them. Pass {{{names[0]!r}: interactions}}; a set may "
                "have none."
            )
        return RecommendationMetrics(interactions, tokenizer, args)
    unknown = [name for name in interactions if name not in (names or ())]
    if unknown:
        raise ValueError(
            f"Expected `eval_interactions` by the names of the evaluation sets, {names}, but found {unknown}. Pass "
            "`eval_dataset` as a dict with the same names, or leave it out."
        )
    return {name: RecommendationMetrics(rows, tokenizer, args) for name, rows in interactions.items()}


class RecommendationMetrics:
    """
    Recommends for a fixed sample of users at each evaluation, the users shared among the processes, so that
    `metric_for_best_model="eval_ndcg@10"` works.

    Args:
        interactions (`datasets.Dataset`):
            Rows with `history` and `target`.
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer.
        args ([`RecommenderArguments`]):
            `eval_num_users` of at least 1, `eval_num_beams`, `eval_recommend_batch_size`.

    Attributes:
        results (`dict[int, dict]`):
            What each evaluation found, by the step it came after.
        ranks (`dict[int, torch.Tensor]`):
            Place of every user's target in its list then, by item, for [`paired_bootstrap`].
    """

    def __init__(self, interactions: Dataset, tokenizer: TSRecTokenizer, args: RecommenderArguments):
        sample = user_sample(interactions, args.eval_num_users)
        self.tokenizer = tokenizer
        self.num_beams, self.batch_size = args.eval_num_beams, args.eval_recommend_batch_size
        self.histories: list[list[str]] = sample["history"][:]
        self.targets: list[str] = sample["target"][:]
        # Cold slices are not reported during training, so the training rows do not matter here.
        self.evaluator = RecommendationEvaluator(sample, tokenizer.sid_index, train=sample)
        self.results: dict[int, Results] = {}
        self.ranks: dict[int, torch.Tensor] = {}
        highest = self.evaluator.ks[-1]
        if self.num_beams < min(highest, tokenizer.sid_index.trie.num_leaves):
            logger.warning(
                f"{self.num_beams} beams find as many SIDs, so metrics at higher cut-offs are not reported. Set "
                f"`eval_num_beams={highest}` or more."
            )

    def measure(self, recommender: TSRecForCausalLM, step: int) -> dict[str, float]:
        """
        Recommends for the sample; called by all processes together.

        Args:
            recommender ([`TSRecForCausalLM`]):
                The model as it is, whole in every process.
            step (`int`):
                The step that it has been trained to.

        Returns:
            `dict[str, float]`: `hr@k`, `ndcg@k` (by item), `sid_hr@k` and `sid_ndcg@k` (by SID).
        """

        num_beams = self.evaluator.enough_beams(self.num_beams)
        top_k = min(self.evaluator.top_k, num_beams)

        def recommend(histories) -> list[list[str]]:
            recommended = recommender.recommend(
                self.tokenizer,
                histories,
                top_k=top_k,
                num_beams=num_beams,
                batch_size=self.batch_size,
                prior=None,  # the figures are the model's, which is what is trained
            )
            return [[item.item_id for item in items] for items in recommended]

        lists = recommend_distributed(recommend, self.histories)
        results = self.evaluator.evaluate(lists, self.evaluator.asked_for(top_k))
        # For the model card, without the slices: cold targets are not known here.
        self.results[step] = {"all": results["all"]}
        # Not by the evaluator, which has checked the lists already and would warn again.
        self.ranks[step] = target_ranks(lists, self.targets)
        return {name: value for name, value in results["all"].items() if name != "num_rows"}

    def baselines(self, train: Dataset) -> dict[str, Results]:
        """What recommenders that count `train` find for the same users, by their names."""
        found = baseline_results(self.evaluator, train, self.histories)
        return {name: {"all": slices["all"]} for name, slices in found.items()}
