"""HR and NDCG of recommendations among a trainer's evaluation metrics."""

import logging

from accelerate.utils import gather_object
from datasets import Dataset

from tsrec_hf.evaluation import RecommendationEvaluator
from tsrec_hf.models import TSRecForCausalLM

from .sharding import whole_copy


logger = logging.getLogger(__name__)

# The sample of users is the same for every seed, so that runs can be compared.
SAMPLE_SEED = 0


class RecommendationMetricsMixin:
    """
    For trainers of a recommender: recommends for a fixed sample of users at each evaluation, the users shared among
    the processes, so that `metric_for_best_model="eval_ndcg@10"` works.
    """

    _evaluator: RecommendationEvaluator | None = None

    @property
    def recommender(self) -> TSRecForCausalLM:
        """The model without what PEFT or a distributed launcher wrapped around it."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _searchable(self) -> TSRecForCausalLM:
        """The recommender as a search can use it: itself, or a whole copy where FSDP cut its weights into shards."""
        return whole_copy(self.recommender) if self.is_fsdp_enabled else self.recommender

    @staticmethod
    def sample_of(interactions: Dataset, num_users: int) -> Dataset:
        """The rows that are recommended for: the same whatever the seed of the run."""
        size = min(num_users, len(interactions))
        return interactions.shuffle(seed=SAMPLE_SEED).select(range(size)).flatten_indices()

    def _recommend_in_evaluation(self, interactions: Dataset | None) -> None:
        self._evaluations: dict[int, dict[str, dict[str, float]]] = {}  # by step
        if interactions is None or self.args.eval_num_users == 0:
            return
        sample = self.sample_of(interactions, self.args.eval_num_users)
        self._histories = sample["history"][:]
        # Cold slices are not reported during training, so the training rows do not matter here.
        self._evaluator = RecommendationEvaluator(sample, self.processing_class.sid_index, train=sample)
        highest = self._evaluator.ks[-1]
        if self.args.eval_num_beams < min(highest, self.processing_class.sid_index.trie.num_leaves):
            logger.warning(
                f"{self.args.eval_num_beams} beams find as many SIDs, so the metrics at {highest} are too low. Set "
                f"`eval_num_beams={highest}` or more."
            )

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """As the parent's, with the metrics of the recommendations."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        metrics = self._recommendation_metrics()
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def _recommendation_metrics(self) -> dict[str, float]:
        if self._evaluator is None:
            return {}
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        num_beams = self.args.eval_num_beams
        mine = self._searchable().recommend(
            self.processing_class,
            self._histories[rank::world],
            top_k=min(self._evaluator.top_k, num_beams),
            num_beams=num_beams,
            batch_size=self.args.eval_recommend_batch_size,
        )
        numbered = [
            (number, [item.item_id for item in items])
            for number, items in zip(range(rank, len(self._histories), world), mine)
        ]
        ranked = [items for _, items in sorted(gather_object(numbered))]
        results = self._evaluator.evaluate(ranked)
        # For the model card, without the slices: cold targets are not known here.
        self._evaluations[self.state.global_step] = {"all": results["all"]}
        metrics = dict(results["all"])
        del metrics["num_rows"]
        return metrics
