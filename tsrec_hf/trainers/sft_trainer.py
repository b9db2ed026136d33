"""
Supervised fine-tuning of a TS-Rec recommender: TRL's `SFTTrainer` with rows of several tasks, the loss of each task in
the logs, and HR and NDCG among the evaluation's metrics. What differs from TRL:

- rows come tokenised, with `input_ids`, `labels` and `task`; those that are too long lose their oldest whole items;
- `loss` is the sum over label tokens, each times its task's weight, divided by the number of label tokens of the step;
- evaluation recommends for a fixed sample of users, so that `metric_for_best_model="eval_ndcg@10"` works.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import SFTTrainer

from tsrec_hf.data import BUILT_IN_TASKS, DataCollatorForTSAlign, drop_oldest_items
from tsrec_hf.models import TSRecTokenizer

from .adapters import TrainablePartMixin
from .cpu_head import add_cpu_lm_head
from .model_card import ModelCardMixin
from .recommendation_metrics import RecommendationMetricsMixin
from .sft_config import TSRecSFTConfig


logger = logging.getLogger(__name__)


class TSRecSFTTrainer(ModelCardMixin, RecommendationMetricsMixin, TrainablePartMixin, SFTTrainer):
    r"""
    Trains a recommender on rows of the sequence task and of the text tasks.

    Args:
        model ([`TSRecForCausalLM`] or `str`):
            The recommender, or the folder or Hub id of its checkpoint.
        args ([`TSRecSFTConfig`], *optional*):
            Settings.
        train_dataset (`Dataset`):
            Rows with `input_ids`, `labels` and `task`, from `build_sequence_rows` or `build_sft_mixture`.
        eval_dataset (`Dataset`, *optional*):
            Rows of the same kind, for the loss.
        eval_interactions (`Dataset`, *optional*):
            Rows with `history` and `target`; a sample of them is recommended for, which adds `eval_hr@k`,
            `eval_ndcg@k` (by item) and `eval_sid_hr@k`, `eval_sid_ndcg@k` (by SID) for k = 1, 3, 5, 10.
        processing_class ([`TSRecTokenizer`], *optional*):
            The recommender's tokenizer. Read from the checkpoint when `model` is a `str`.
        card_facts (`dict`, *optional*):
            What the model card should tell and the trainer cannot know: `dataset` (a [`RecommendationDataset`], from
            which the floors of the evaluation are counted as well, or a dict of its name and counts), `sid_method` (a
            sentence), `base_model` (Hub id); all else is metadata, such as `license` and `datasets`.
        kwargs (*optional*):
            As [`~trl.SFTTrainer`]'s; `peft_config` from [`lora_config`].

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import TSRecSFTConfig, TSRecSFTTrainer, build_sequence_rows

    >>> args = TSRecSFTConfig(
    ...     tempfile.mkdtemp(), max_steps=1, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True
    ... )
    >>> rows = build_sequence_rows(dataset.train, tokenizer)
    >>> trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    >>> output = trainer.train()
    {'train_runtime': ...}
    >>> output.global_step
    1
    ```
    """

    METHOD = "SFT"

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: TSRecSFTConfig | None = None,
        data_collator: Callable | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: TSRecTokenizer | None = None,
        eval_interactions: Dataset | None = None,
        card_facts: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        if args is None:
            args = TSRecSFTConfig("tsrec-sft")
        if not isinstance(args, TSRecSFTConfig):
            raise TypeError(f"Expected `args` to be a `TSRecSFTConfig`, but found `{type(args).__name__}`.")
        if processing_class is None:
            if not isinstance(model, str):
                raise ValueError(
                    "Expected `processing_class`, the recommender's `TSRecTokenizer`, beside a loaded model."
                )
            processing_class = TSRecTokenizer.from_pretrained(model)
        if data_collator is None:
            data_collator = DataCollatorForTSAlign(
                processing_class, pad_to_multiple_of=args.pad_to_multiple_of, task_weights=args.task_weights
            )
        elif args.task_weights and getattr(data_collator, "task_weights", None) != args.task_weights:
            raise ValueError(
                "The collator applies the weights of tasks, and yours does not know "
                f"task_weights={args.task_weights}. Pass them to `DataCollatorForTSAlign`, or leave `data_collator` "
                "out."
            )
        self._before_adapters(model, args, processing_class, kwargs.get("peft_config"))
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.recommender.check_tokenizer(processing_class)
        self._after_adapters()
        # Where it trains, not where it is: sharded models wait on the CPU.
        if self.accelerator.device.type == "cpu":
            add_cpu_lm_head(self.recommender)
        self._recommend_in_evaluation(eval_interactions)
        self._keep_card_facts(card_facts)
        self._task_sums = {mode: _no_sums() for mode in ("train", "eval")}

    def describe(self) -> str:
        """What is on in this run: SID initialisation, rows of each task, trainable parameters."""
        rows = Counter(self.train_dataset["task"]) if "task" in self.train_dataset.column_names else {}
        initialization = dict(self.recommender.config.sid_initialization or {})
        initialization.pop("levels", None)
        return (
            f"SID initialisation: {initialization or 'unknown'}\n"
            f"Rows per task: {dict(rows) or len(self.train_dataset)}; "
            f"task weights: {self.args.task_weights or 'all 1'}\n"
            f"{self.describe_trainable()}"
        )

    def train(self, *args, **kwargs):
        """As the parent's; logs [`~TSRecSFTTrainer.describe`] first."""
        if self.is_world_process_zero():
            logger.info(self.describe())
        # Steps behind the last log of an earlier call belong to no log.
        self._task_sums["train"] = _no_sums()
        return super().train(*args, **kwargs)

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"Expected the {dataset_name} dataset to be a `datasets.Dataset`, but found "
                f"`{type(dataset).__name__}`, whose rows cannot be counted or fitted to `max_length`. Make one with "
                "`Dataset.from_generator`."
            )
        if "labels" not in dataset.column_names:
            raise ValueError(
                f"Expected a {dataset_name} dataset with tokenised rows (`input_ids`, `labels`, `task`), but found "
                f"the columns {dataset.column_names}. Build it with `build_sequence_rows` or `build_sft_mixture`."
            )
        if args.max_length is not None:
            dataset, report = drop_oldest_items(dataset, processing_class, args.max_length)
            if report.rows:
                logger.warning(
                    f"{report.rows} rows of the {dataset_name} dataset were longer than max_length={args.max_length} "
                    f"and lost their {report.items} oldest items, {report.targets} of them targets."
                )
        return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if "task" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "task"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As the parent's, with each row's loss times its task's weight; keeps the sums of each task for the logs."""
        task_ids, weights = inputs.pop("task_ids", None), inputs.pop("loss_weights", None)
        if task_ids is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mode = "train" if self.model.training else "eval"

        def weighted_model(**model_inputs):
            outputs = model(**model_inputs)
            if not model_inputs.get("fused_lm_head"):
                return outputs
            self._add_task_sums(mode, outputs, task_ids, num_items_in_batch)
            outputs.log_probs = outputs.log_probs * weights.unsqueeze(-1).to(outputs.log_probs.dtype)
            return outputs

        return super().compute_loss(weighted_model, inputs, return_outputs, num_items_in_batch)

    @torch.no_grad()
    def _add_task_sums(self, mode: str, outputs: Any, task_ids: torch.Tensor, num_items_in_batch) -> None:
        """
        Adds each task's part of this batch's loss, before weights, and its share of the label tokens.

        In training both are parts of the whole step, over all its batches and processes, so that the shares of a step
        add up to 1. In evaluation they are parts of the batch, counted once per row, as `Trainer` averages the loss.
        """
        losses = -outputs.log_probs.float().sum(dim=-1)  # (batch,)
        tokens = outputs.label_mask.float().sum(dim=-1)  # (batch,)
        # Indexed additions in float64 on the CPU: three numbers a row.
        rows = torch.stack([losses, tokens]).cpu().double()  # (2, batch)
        divisor = float(tokens.sum() if num_items_in_batch is None else num_items_in_batch)
        parts = _no_sums().index_add_(1, task_ids.cpu(), rows) / divisor  # (2, tasks)
        if mode == "eval":
            # `gather_for_metrics` leaves out the rows that a distributed sampler repeats to fill up the last batch.
            parts = parts.float().to(self.accelerator.device).repeat(len(tokens), 1, 1)  # (batch, 2, tasks)
            parts = self.accelerator.gather_for_metrics(parts).sum(dim=0).cpu()
        self._task_sums[mode] += parts

    def _task_metrics(self, mode: str) -> dict[str, float]:
        sums, self._task_sums[mode] = self._task_sums[mode], _no_sums()
        if mode == "train":
            # Evaluation gathered its rows from all processes already.
            sums = self.accelerator.reduce(sums.float().to(self.accelerator.device), reduction="sum").cpu()
        # All shares together count the steps, or the rows of an evaluation, that were added since the last log.
        losses, shares = (sums / sums[1].sum()).tolist()
        prefix = "" if mode == "train" else "eval_"
        metrics = {}
        for task, loss, share in zip(BUILT_IN_TASKS, losses, shares):
            if share > 0:
                metrics[f"{prefix}loss/{task}"] = loss / share
                metrics[f"{prefix}share/{task}"] = share
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        As the parent's, with `loss/<task>`, the mean negative log-likelihood of the task's label tokens, and
        `share/<task>`, their share of all label tokens: the sum of weight x share x loss over tasks is `loss`.
        """
        mode = "train" if self.model.training else "eval"
        if mode == "train" and "loss" in logs:
            logs |= self._task_metrics("train")
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """As the parent's, with the loss of each task."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        for name, value in self._task_metrics("eval").items():
            output.metrics[f"{metric_key_prefix}_{name.removeprefix('eval_')}"] = value
        return output


def _no_sums() -> torch.Tensor:
    """Sums of each task's losses and of its shares of the label tokens, of shape `(2, tasks)`."""
    return torch.zeros(2, len(BUILT_IN_TASKS), dtype=torch.float64)
