"""
A trainer's model card: what the run knows about itself, in the checkpoint's configuration and in its `README.md`.

A stage of training is added to those that the checkpoint went through before (`config.run_facts`), so that the card of
a policy tells of its supervised fine-tuning as well.
"""

import enum
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from huggingface_hub import ModelCard

from tsrec_hf.evaluation import NextItemRecommender, PopularityRecommender
from tsrec_hf.hub import build_model_card, check_base_model, dataset_facts
from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models.configuration_tsrec import UNNAMED_REPO

from .sharding import as_saved


CARD_FILE = "README.md"
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
FACTS = ("base_model", "dataset", "sid_method")


class ModelCardMixin:
    """
    For trainers of a recommender: `create_model_card` writes a recommender's card, also when the trainer saves or
    pushes; `push_to_hub` of the model sends the same one.
    """

    METHOD = ""

    def _keep_card_facts(self, card_facts: Mapping[str, Any] | None) -> None:
        """Checks `card_facts` and remembers the stages that the checkpoint went through before this one."""
        facts = dict(card_facts or {})
        # Before training, and not when its card is written.
        check_base_model(facts.get("base_model"))
        self._floors_from = facts.get("dataset") if isinstance(facts.get("dataset"), RecommendationDataset) else None
        if self._floors_from is not None:
            facts["dataset"] = dataset_facts(facts["dataset"])
        self._known_facts = {name: facts.pop(name) for name in FACTS if facts.get(name) is not None}
        self._floor_results: dict[str, Any] | None = None
        # All else is metadata: `license`, `datasets`, `tags`, ...
        self._card_data = facts
        self._earlier_facts = dict(self.recommender.config.run_facts or {})

    def model_card(self, name: str | None = None, **card_data) -> ModelCard:
        """
        The card as it stands now.

        Args:
            name (`str`, *optional*):
                Heading. Defaults to the name of the repository, or of the output folder.
            card_data (*optional*):
                Metadata, beside those of `card_facts`.
        """
        if self._adapter is not None:
            card_data["library_name"] = "peft"
            base = self._adapter.base_model_name_or_path
            if base and not Path(base).is_dir():
                card_data["base_model"] = base
        repo_id = self.hub_model_id or self.args.hub_model_id
        name = name or (repo_id.split("/")[-1] if repo_id else Path(self.args.output_dir).resolve().name)
        return build_model_card(
            self.recommender.config,
            self.processing_class.sid_index,
            repo_id or UNNAMED_REPO,
            name,
            evaluations=self._evaluation_facts(),
            **{**self._card_data, **card_data},
        )

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        directory: str | Path | None = None,
        **card_data,
    ) -> None:
        """
        Writes the card to the output folder.

        Args:
            model_name (`str`, *optional*):
                Heading of the card.
            dataset_name (`str`, *optional*):
                Hub id of the data set.
            tags (`str` or `list[str]`, *optional*):
                Tags beside the card's own.
            directory (`str` or `Path`, *optional*):
                Another folder to write to.
            card_data (*optional*):
                Metadata: `license`, `language`, ...
        """
        if not self.is_world_process_zero():
            return
        self._record_facts()
        tags = [tags] if isinstance(tags, str) else list(tags or [])
        card_data["tags"] = [*(self._card_data.get("tags") or []), *(getattr(self, "_tag_names", None) or []), *tags]
        if dataset_name is not None:
            card_data["datasets"] = dataset_name
        card = self.model_card(model_name, **card_data)
        folder = Path(directory or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        card.save(folder / CARD_FILE)

    def train(self, *args, **kwargs):
        """As the parent's; the model carries the card of the run afterwards."""
        output = super().train(*args, **kwargs)
        self._record_facts()
        return output

    def evaluate(self, *args, **kwargs):
        """As the parent's; the model's card holds what was found."""
        metrics = super().evaluate(*args, **kwargs)
        if not self.is_in_train:
            self._record_facts()
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the parent's; writes the card beside the weights."""
        self._record_facts()  # first: they are in the configuration that is saved
        super().save_model(output_dir, _internal_call)
        if not _internal_call:
            # Last: PEFT writes a card of its own beside adapters.
            self.create_model_card(directory=output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.is_fsdp_enabled:
            return super()._save(output_dir, state_dict)
        with as_saved(self.recommender):
            super()._save(output_dir, state_dict)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Transformers copies what every model has from the checkpoint; ours brings its code as well.
        if self.is_world_process_zero():
            for path in Path(checkpoint_folder).glob("*.py"):
                shutil.copy(path, self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def _record_facts(self) -> None:
        """Puts what is known into the configuration that is saved, and the card on the model that may be pushed."""
        facts = {**self._earlier_facts, **self._known_facts}
        facts["stages"] = [*(self._earlier_facts.get("stages") or []), self._stage()]
        self.recommender.config.run_facts = facts
        if self.is_world_process_zero():
            self.recommender.model_card = str(self.model_card())

    def _stage(self) -> dict[str, Any]:
        settings = {name: getattr(self.args, name) for name in SETTINGS if getattr(self.args, name, None) is not None}
        for useless, needless in (("max_steps", -1), ("bf16", False), ("fp16", False), ("weight_decay", 0.0)):
            if settings.get(useless) == needless:
                del settings[useless]
        settings["processes"] = self.args.world_size
        if self._adapter is not None:
            shown = {name: getattr(self._adapter, name, None) for name in ("r", "lora_alpha")}
            told = ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
            settings["adapter"] = f"{_plain(self._adapter.peft_type)} ({told})"
        for library in (torch, transformers, trl, datasets):
            settings[library.__name__] = library.__version__
        stage = {
            "method": self.METHOD,
            "trainable": self._trainable_part,
            "trainable_parameters": self._num_trainable_parameters(),
            "steps": self.state.global_step,
            "epochs": float(self.state.epoch or 0),
            "settings": {name: _plain(value) for name, value in settings.items()},
        }
        if self.train_dataset is not None:
            columns = getattr(self.train_dataset, "column_names", None) or []
            tasks = Counter(self.train_dataset["task"]) if "task" in columns else {}
            stage |= {"tasks": dict(tasks)} if tasks else {"rows": len(self.train_dataset)}
        rewards = getattr(self, "reward_func_names", None)
        return stage if rewards is None else {**stage, "rewards": list(rewards)}

    @property
    def _adapter(self) -> Any | None:
        """Configuration of the adapters that PEFT trains."""
        adapters = getattr(self.accelerator.unwrap_model(self.model), "peft_config", None)
        return next(iter(adapters.values())) if adapters else None

    @property
    def _trainable_part(self) -> str:
        if self._adapter is None:
            return "sid rows" if self.args.freeze_backbone else "all"
        return "adapters and sid rows" if getattr(self._adapter, "trainable_token_indices", None) else "adapters"

    def _evaluation_facts(self) -> list[dict[str, Any]]:
        """The evaluation of the weights as they are, in the form of `build_model_card`, beside the floors if known."""
        if not self._evaluations:
            return []
        best_is_loaded = self.args.load_best_model_at_end and not self.is_in_train
        step = self.state.best_global_step if best_is_loaded else None
        results = {"model": self._evaluations.get(step, self._evaluations[max(self._evaluations)])}
        if self._floors_from is not None:
            if self._floor_results is None:
                train, top_k = self._floors_from.train, self._evaluator.top_k
                floors = {"popularity": PopularityRecommender(train), "next-item counts": NextItemRecommender(train)}
                self._floor_results = {
                    name: {"all": self._evaluator.evaluate(floor.recommend(self._histories, top_k))["all"]}
                    for name, floor in floors.items()
                }
            results |= self._floor_results
        dataset = self.recommender.config.run_facts.get("dataset") if self.recommender.config.run_facts else None
        settings = {
            "dataset": (dataset or {}).get("name"),
            "split": "validation",
            "rows": f"{len(self._histories):,} drawn from validation",
            "num_beams": self.args.eval_num_beams,
        }
        return [{"settings": settings, "results": results}]


def _plain(value: Any) -> Any:
    """A setting as JSON holds it."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
