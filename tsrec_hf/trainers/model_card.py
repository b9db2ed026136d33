"""
A training run's model card: what the run knows about itself, in the checkpoint's configuration and in its `README.md`.

A stage of training is added to those that the checkpoint went through before (`config.run_facts`), so that the card of
a policy tells of its supervised fine-tuning as well.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from datasets import Dataset, IterableDataset
from huggingface_hub import ModelCard
from peft import PeftConfig
from transformers import TrainerState, TrainingArguments

from tsrec_hf.data.rows import count_tasks
from tsrec_hf.hub import build_model_card, check_base_model, dataset_facts
from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import SIDIndex, TSRecConfig
from tsrec_hf.models.configuration_tsrec import UNNAMED_REPO

from .recommendation_metrics import RecommendationMetrics


# What decides a run's result. Named by hand: `TrainingArguments` holds 150 settings.
SETTINGS = [
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "num_train_epochs",
    "max_steps",
    "max_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "fp16",
    "seed",
    "train_sampling_strategy",
    "task_weights",
    "num_generations",
    "temperature",
    "rollout",
    "beta",
    "sync_ref_model",
    "loss_type",
    "epsilon",
    "num_iterations",
    "advantage_level",
    "scale_rewards",
    "reward_weights",
    "dynamic_sampling",
    "scoring",
]
# Settings that say nothing at these values.
UNTOLD = {"max_steps": -1, "bf16": False, "fp16": False, "weight_decay": 0.0}
FACTS = ("base_model", "dataset", "sid_method")


@dataclass(frozen=True)
class TrainedPart:
    """
    Which parameters a run trains.

    Attributes:
        name: `"all"`, `"sid rows"`, `"adapters"` or `"adapters and sid rows"`.
        num_parameters: How many they are.
        adapter: Configuration of the adapters.
    """

    name: str
    num_parameters: int
    adapter: PeftConfig | None = None


class RunCard:
    """
    Collects the facts of a run and writes its model card.

    Args:
        config ([`TSRecConfig`]):
            The recommender's configuration, which keeps the facts: `run_facts`.
        sid_index ([`SIDIndex`]):
            Its catalogue.
        args ([`~transformers.TrainingArguments`]):
            The run's settings.
        card_facts (`dict`, *optional*):
            As the trainers take them.

    Attributes:
        earlier_facts (`dict`):
            What the configuration told before this run.
    """

    def __init__(
        self,
        config: TSRecConfig,
        sid_index: SIDIndex,
        args: TrainingArguments,
        card_facts: Mapping[str, Any] | None = None,
    ):
        facts = dict(card_facts or {})
        # Before training, and not when the card is written.
        check_base_model(facts.get("base_model"))
        dataset = facts.get("dataset")
        self.dataset = dataset if isinstance(dataset, RecommendationDataset) else None
        if self.dataset is not None:
            facts["dataset"] = dataset_facts(self.dataset)
        self.config, self.sid_index, self.args = config, sid_index, args
        self._facts = {name: facts.pop(name) for name in FACTS if facts.get(name) is not None}
        # All else is metadata: `license`, `datasets`, `tags`, ...
        self._card_data = facts
        self.earlier_facts = dict(config.run_facts or {})
        self._baselines: dict[str, dict[str, Any]] = {}

    def record(self, stage: Mapping[str, Any]) -> None:
        """Puts the facts into the configuration, with this run's stage behind those before it."""
        stages = [*(self.earlier_facts.get("stages") or []), dict(stage)]
        self.config.run_facts = {**self.earlier_facts, **self._facts, "stages": stages}

    def build(
        self,
        name: str | None = None,
        repo_id: str | None = None,
        adapter: PeftConfig | None = None,
        evaluations: Sequence[Mapping[str, Any]] = (),
        tags: Sequence[str] = (),
        **card_data,
    ) -> ModelCard:
        """
        Builds the card from the facts recorded last.

        Args:
            name (`str`, *optional*):
                Heading. Defaults to the name of the repository, or of the output folder.
            repo_id (`str`, *optional*):
                The repository on the Hub.
            adapter ([`~peft.PeftConfig`], *optional*):
                Configuration of the adapters, where the checkpoint holds these.
            evaluations (`Sequence[dict]`, *optional*):
                As in [`build_model_card`]: from [`RunCard.evaluation`].
            tags (`Sequence[str]`, *optional*):
                Tags beside the card's own and those of `card_facts`.
            card_data (*optional*):
                Metadata, before those of `card_facts`.
        """
        card_data["tags"] = [*(self._card_data.get("tags") or []), *tags]
        if adapter is not None:
            card_data["library_name"] = "peft"
            base = adapter.base_model_name_or_path
            if base and not Path(base).is_dir():
                card_data["base_model"] = base
        name = name or (repo_id.split("/")[-1] if repo_id else Path(str(self.args.output_dir)).resolve().name)
        return build_model_card(
            self.config,
            self.sid_index,
            repo_id or UNNAMED_REPO,
            name,
            evaluations=evaluations,
            **{**self._card_data, **card_data},
        )

    def evaluation(
        self,
        metrics: RecommendationMetrics | Mapping[str, RecommendationMetrics] | None,
        step: int | None = None,
        split: str = "validation",
    ) -> list[dict[str, Any]]:
        """
        Evaluations in the form of `build_model_card`, beside the baselines where the data set is known.

        Args:
            metrics ([`RecommendationMetrics`] or `dict`, *optional*):
                The evaluations of the run, of one set or by the names of several.
            step (`int`, *optional*):
                The one whose weights the card is of, which may have none; the last one by default.
            split (`str`, *optional*, defaults to `"validation"`):
                Name of the rows, where they have none of their own.
        """
        if isinstance(metrics, Mapping):
            return [found for name, one in metrics.items() for found in self.evaluation(one, step, name)]
        if metrics is None or not metrics.results:
            return []
        step = max(metrics.results) if step is None else step
        if step not in metrics.results:
            return []  # figures of other weights
        results = {"model": metrics.results[step]}
        if self.dataset is not None:
            if split not in self._baselines:
                self._baselines[split] = metrics.baselines(self.dataset.train)
            results |= self._baselines[split]
        dataset = (self.config.run_facts or {}).get("dataset") or {}
        settings = {
            "dataset": dataset.get("name"),
            "split": split,
            "rows": f"{len(metrics.histories):,} drawn from {split}",
            "num_beams": metrics.num_beams,
        }
        return [{"settings": settings, "results": results}]


def training_stage(
    method: str,
    args: TrainingArguments,
    state: TrainerState,
    trained: TrainedPart,
    train_dataset: Dataset | IterableDataset | None,
    rewards: Sequence[str] | None = None,
) -> dict[str, Any]:
    """
    The facts of one stage of training, as JSON holds them.

    Args:
        method (`str`):
            `"SFT"` or `"GRPO"`.
        args ([`~transformers.TrainingArguments`]):
            Settings; those of `SETTINGS` are kept.
        state ([`~transformers.TrainerState`]):
            How far the run is.
        trained ([`TrainedPart`]):
            Which parameters are trained.
        train_dataset (`datasets.Dataset` or `IterableDataset`, *optional*):
            Rows, counted by their column `task` if they have it.
        rewards (`Sequence[str]`, *optional*):
            Names of the rewards.
    """
    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name, None) is not None}
    settings = {name: value for name, value in settings.items() if name not in UNTOLD or value != UNTOLD[name]}
    settings["processes"] = args.world_size
    if trained.adapter is not None:
        shown = {name: getattr(trained.adapter, name, None) for name in ("r", "lora_alpha")}
        told = ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
        settings["adapter"] = f"{_plain(trained.adapter.peft_type)} ({told})"
    for library in (torch, transformers, trl, datasets):
        settings[library.__name__] = library.__version__
    stage = {
        "method": method,
        "trainable": trained.name,
        "trainable_parameters": trained.num_parameters,
        "steps": state.global_step,
        "epochs": float(state.epoch or 0),
        "settings": {name: _plain(value) for name, value in settings.items()},
    }
    if isinstance(train_dataset, Dataset):
        if "task" in train_dataset.column_names and len(train_dataset):
            stage["tasks"] = count_tasks(train_dataset)
        else:
            stage["rows"] = len(train_dataset)
    if rewards is not None:
        stage["rewards"] = list(rewards)
    return stage


def _plain(value: Any) -> Any:
    """A setting as JSON holds it."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
