"""HR and NDCG of recommendations among a trainer's evaluation metrics."""

import logging

from datasets import Dataset

from tsrec_hf.evaluation import RecommendationEvaluator, baseline_results, recommend_distributed
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer

from .arguments import RecommenderArguments


logger = logging.getLogger(__name__)

# The sample of users is the same for every seed, so that runs can be compared.
SAMPLE_SEED = 0

Results = dict[str, dict[str, float]]


def user_sample(interactions: Dataset, num_users: int) -> Dataset:
    """The rows that are recommended for: the same whatever the seed of the run."""
    size = min(num_users, len(interactions))
    return interactions.shuffle(seed=SAMPLE_SEED).select(range(size)).flatten_indices()


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
    """

    def __init__(self, interactions: Dataset, tokenizer: TSRecTokenizer, args: RecommenderArguments):
        sample = user_sample(interactions, args.eval_num_users)
        self.tokenizer = tokenizer
        self.num_beams, self.batch_size = args.eval_num_beams, args.eval_recommend_batch_size
        self.histories: list[list[str]] = sample["history"][:]
        # Cold slices are not reported during training, so the training rows do not matter here.
        self.evaluator = RecommendationEvaluator(sample, tokenizer.sid_index, train=sample)
        self.results: dict[int, Results] = {}
        highest = self.evaluator.ks[-1]
        if self.num_beams < min(highest, tokenizer.sid_index.trie.num_leaves):
            logger.warning(
                f"{self.num_beams} beams find as many SIDs, so the metrics at {highest} are too low. Set "
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

        def recommend(histories) -> list[list[str]]:
            recommended = recommender.recommend(
                self.tokenizer,
                histories,
                top_k=min(self.evaluator.top_k, self.num_beams),
                num_beams=self.num_beams,
                batch_size=self.batch_size,
                prior=None,  # the figures are the model's, which is what is trained
            )
            return [[item.item_id for item in items] for items in recommended]

        results = self.evaluator.evaluate(recommend_distributed(recommend, self.histories))
        # For the model card, without the slices: cold targets are not known here.
        self.results[step] = {"all": results["all"]}
        return {name: value for name, value in results["all"].items() if name != "num_rows"}

    def baselines(self, train: Dataset) -> dict[str, Results]:
        """What recommenders that count `train` find for the same users, by their names."""
        found = baseline_results(self.evaluator, train, self.histories)
        return {name: {"all": slices["all"]} for name, slices in found.items()}
