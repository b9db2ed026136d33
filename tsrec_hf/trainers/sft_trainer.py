"""
Supervised fine-tuning of a TS-Rec recommender: TRL's `SFTTrainer` with rows of several tasks, the loss of each task in
the logs, and HR and NDCG among the evaluation's metrics. What differs from TRL:

- rows come tokenised, with `input_ids`, `labels` and `task`; those that are too long lose their oldest whole items;
- `loss` is the sum over label tokens, each times its task's weight, divided by the number of label tokens of the step;
- evaluation recommends for a fixed sample of users, so that `metric_for_best_model="eval_ndcg@10"` works.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel
from trl import SFTTrainer

from tsrec_hf.data import BUILT_IN_TASKS, DataCollatorForTSAlign, build_sequence_rows, drop_oldest_items
from tsrec_hf.data.rows import count_tasks, longest_row
from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.models.positions_tsrec import check_positions

from .base import RecommenderTrainer, checked_arguments, checked_tokenizer
from .cpu_head import add_cpu_lm_head, check_lm_head
from .learning_checks import check_has_rows, check_labels, check_whole_batches
from .recommendation_metrics import evaluation_rows
from .row_stream import check_stream, repeated_loader, shortened
from .sft_config import TSRecSFTConfig
from .task_losses import TaskLosses


logger = logging.getLogger(__name__)


class TSRecSFTTrainer(RecommenderTrainer, SFTTrainer):
    r"""
    Trains a recommender on rows of the sequence task and of the text tasks.

    Args:
        model ([`TSRecForCausalLM`] or `str`):
            The recommender, or the folder or Hub id of its checkpoint.
        args ([`TSRecSFTConfig`], *optional*):
            Settings.
        data_collator (`Callable`, *optional*):
            Defaults to a [`DataCollatorForTSAlign`] that knows the tasks of the rows.
        train_dataset (`Dataset` or `IterableDataset`):
            Rows with `input_ids`, `labels` and `task`, from `build_sequence_rows` or `build_sft_mixture`. A stream of
            them, in the order to train in (`shuffle(seed, buffer_size)`), needs `max_steps` and is read again when it
            ends. Processes share its shards, or its rows where it has too few. A run that goes on reads, and skips,
            what it had trained on.
        eval_dataset (`Dataset`, *optional*):
            Rows of the same kind, for the loss. Built from `eval_interactions` where absent.
        eval_interactions (`Dataset` or `dict[str, Dataset]`, *optional*):
            Rows with `history` and `target`; a sample of them is recommended for, which adds `eval_hr@k`,
            `eval_ndcg@k` (by item) and `eval_sid_hr@k`, `eval_sid_ndcg@k` (by SID) for k = 1, 3, 5, 10, as far as
            `eval_num_beams` reaches. A dict where `eval_dataset` is one, by the same names; a set may have none.
        processing_class ([`TSRecTokenizer`], *optional*):
            The recommender's tokenizer. Read from the checkpoint when `model` is a `str`.
        card_facts (`dict`, *optional*):
            What the model card should tell and the trainer cannot know: `dataset` (a [`RecommendationDataset`], from
            which the baselines of the evaluation are counted as well, or a dict of its name and counts), `sid_method`
            (a sentence), `base_model` (Hub id); all else is metadata, such as `license` and `datasets`.
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

    args: TSRecSFTConfig
    processing_class: TSRecTokenizer
    train_dataset: Dataset | IterableDataset | None  # type: ignore[assignment]

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: TSRecSFTConfig | None = None,
        data_collator: Callable | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: TSRecTokenizer | None = None,
        eval_interactions: Dataset | Mapping[str, Dataset] | None = None,
        card_facts: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        args = checked_arguments(args, TSRecSFTConfig, "tsrec-sft")
        tokenizer = checked_tokenizer(processing_class, model)
        if eval_dataset is None:
            build = partial(self._rows_of, tokenizer=tokenizer)
            eval_dataset = evaluation_rows(eval_interactions, args.eval_num_users, build)
        if args.task_weights and kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                f"`task_weights` are factors of the trainer's own loss, but found `compute_loss_func` beside "
                f"{args.task_weights}. Weigh the tasks in that function, or leave one of the two out."
            )
        named = eval_dataset if isinstance(eval_dataset, dict) else {"evaluation": eval_dataset}
        for name, rows in {"train": train_dataset, **named}.items():
            check_has_rows(rows, name)
        if isinstance(train_dataset, IterableDataset):
            check_stream(train_dataset, args)
        if data_collator is None:
            evaluated = list(eval_dataset.values()) if isinstance(eval_dataset, dict) else [eval_dataset]
            data_collator = _collator(args, tokenizer, [train_dataset, *evaluated])
        elif args.task_weights and getattr(data_collator, "task_weights", None) != args.task_weights:
            raise ValueError(
                "The collator applies the weights of tasks, and yours does not know "
                f"task_weights={args.task_weights}. Pass them to `DataCollatorForTSAlign`, or leave `data_collator` "
                "out."
            )
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            eval_interactions=eval_interactions,
            card_facts=card_facts,
            **kwargs,
        )
        named = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"evaluation": self.eval_dataset}
        for rows in (self.train_dataset, *named.values()):
            if isinstance(rows, Dataset):
                check_positions(self.recommender.learned_positions, longest_row(rows))
        # Where it trains, not where it is: sharded models wait on the CPU.
        if self.accelerator.device.type == "cpu":
            add_cpu_lm_head(self.recommender)
        check_lm_head(self.recommender)
        self._task_losses = TaskLosses(self.accelerator, getattr(data_collator, "task_names", ()))

    def describe(self) -> str:
        """What is on in this run: SID initialisation, rows of each task, trainable parameters."""
        dataset = self.train_dataset
        if isinstance(dataset, IterableDataset):
            found: Any = f"a stream of {dataset.num_shards} shards"
        else:
            assert dataset is not None
            found = count_tasks(dataset) if "task" in dataset.column_names else len(dataset)
        initialization = dict(self.recommender.config.sid_initialization or {})
        initialization.pop("levels", None)
        return (
            f"SID initialisation: {initialization or 'unknown'}\n"
            f"Rows per task: {found}; "
            f"task weights: {self.args.task_weights or 'all 1'}\n"
            f"{self.describe_trainable()}"
        )

    def train(self, *args, **kwargs):
        """As the parent's; logs first what is on."""
        if isinstance(self.train_dataset, Dataset):
            check_whole_batches(len(self.train_dataset), self.args)
        if self.is_world_process_zero():
            logger.info(self.describe())
        # Steps behind the last log of an earlier call belong to no log.
        self._task_losses.clear("train")
        return super().train(*args, **kwargs)

    def get_train_dataloader(self):
        """As the parent's; a stream has no end, and each process its share of it."""
        rows = self.train_dataset
        if not isinstance(rows, IterableDataset):
            return super().get_train_dataloader()

        def load(stream):
            self.train_dataset = stream
            return super(TSRecSFTTrainer, self).get_train_dataloader()

        try:
            return repeated_loader(rows, self.args, load)
        finally:
            self.train_dataset = rows

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if isinstance(dataset, IterableDataset) and dataset_name == "train":
            return dataset if args.max_length is None else shortened(dataset, processing_class, args.max_length)
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"Expected the {dataset_name} dataset to be a `datasets.Dataset`, but found "
                f"`{type(dataset).__name__}`, whose rows cannot be counted or fitted to `max_length`. Make one with "
                "`Dataset.from_generator`; only training rows may be a stream."
            )
        if "labels" not in dataset.column_names:
            raise ValueError(
                f"Expected a {dataset_name} dataset with tokenised rows (`input_ids`, `labels`, `task`), but found "
                f"the columns {dataset.column_names}. Build it with `build_sequence_rows` or `build_sft_mixture`."
            )
        check_labels(dataset, dataset_name)
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

    @staticmethod
    def _rows_of(interactions: Dataset, tokenizer: TSRecTokenizer) -> Dataset:
        """A row for each target, of interactions that need no users."""
        if "user_id" not in interactions.column_names:
            interactions = interactions.add_column("user_id", [str(row) for row in range(len(interactions))])
        return build_sequence_rows(interactions, tokenizer, mode="window")

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _suspects(self) -> str:
        tasks = self._task_losses.not_finite()
        return f", in rows of the tasks {tasks}" if tasks else ""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As the parent's, with each row's loss times its task's weight; keeps the sums of each task for the logs."""
        if "position_ids" not in inputs:
            check_positions(self.recommender.learned_positions, inputs["input_ids"].shape[1])
        task_ids, weights = inputs.pop("task_ids", None), inputs.pop("loss_weights", None)
        if task_ids is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        def weighted_model(**model_inputs):
            outputs = model(**model_inputs)
            if not model_inputs.get("fused_lm_head"):
                return outputs
            self._task_losses.add(self._mode, outputs, task_ids, num_items_in_batch)
            outputs.log_probs = outputs.log_probs * weights.unsqueeze(-1).to(outputs.log_probs.dtype)
            return outputs

        return super().compute_loss(weighted_model, inputs, return_outputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        As the parent's, with `loss/<task>`, the mean negative log-likelihood of the task's label tokens, and
        `share/<task>`, their share of all label tokens: the sum of weight x share x loss over tasks is `loss`.
        """
        if self._mode == "train" and "loss" in logs:
            logs |= self._task_losses.metrics("train")
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """As the parent's, with the loss of each task."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        for name, value in self._task_losses.metrics("eval").items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output


def _collator(args: TSRecSFTConfig, tokenizer: TSRecTokenizer, datasets: list[Any]) -> DataCollatorForTSAlign:
    """The default collator, with the tasks of the rows in the order in which they appear, then the built-in ones."""
    columns = [rows["task"] for rows in datasets if isinstance(rows, Dataset) and "task" in rows.column_names]
    names = dict.fromkeys(name for column in columns for name in column)
    return DataCollatorForTSAlign(
        tokenizer,
        pad_to_multiple_of=cast(int | None, args.pad_to_multiple_of),
        task_weights=cast(dict[str, float] | None, args.task_weights),  # the settings have read the JSON
        task_names=tuple(dict.fromkeys([*names, *BUILT_IN_TASKS])),
    )
