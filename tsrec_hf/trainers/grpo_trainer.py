"""
Reinforcement learning of a TS-Rec recommender: TRL's `GRPOTrainer` with SIDs that exist. What differs from TRL:

- a prompt's completions come from the constrained tree search: valid and distinct, by falling score, without an end
  token (a SID is complete at its last level); nothing of a `generation_config` is read;
- a group is never split or scattered: `per_device_train_batch_size` is a multiple of `num_generations`, and batches
  are not shuffled within a generation, since the completions of a prompt share one forward and backward pass;
- rewards may be functions of codes or items (`tsrec_hf.rewards`), of one number or one for each level;
- prompts are encoded without special tokens: they hold the backbone's start token already;
- the reference model of an in-memory policy is that policy, and it is saved in checkpoints and restored on resume;
- evaluation adds HR and NDCG of recommendations, so that `metric_for_best_model="eval_ndcg@10"` works.
"""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.trainer.utils import nanstd, split_tensor_dict

from tsrec_hf.data import build_grpo_rows
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.tree_passes_tsrec import why_no_tree_mask
from tsrec_hf.rewards import CompletionReader, RewardOnCodes

from .adapters import TrainablePartMixin
from .branches import LegalTokens, score_completions
from .grpo_config import TSRecGRPOConfig
from .model_card import ModelCardMixin
from .recommendation_metrics import RecommendationMetricsMixin
from .rollouts import roll_out
from .sharding import WHOLE, as_saved


logger = logging.getLogger(__name__)

REFERENCE_FOLDER = "reference"


class TSRecGRPOTrainer(ModelCardMixin, RecommendationMetricsMixin, TrainablePartMixin, GRPOTrainer):
    r"""
    Trains a recommender by rewards for the SIDs it would recommend.

    Args:
        model ([`TSRecForCausalLM`] or `str`):
            The recommender after SFT, or the folder or Hub id of its checkpoint.
        reward_funcs (`Callable` or `list`):
            Functions of codes such as [`exact_match_reward`], or whatever TRL takes. Weighed by `args.reward_weights`.
        args ([`TSRecGRPOConfig`], *optional*):
            Settings.
        train_dataset (`Dataset`):
            Rows with `prompt` (text) and `target` (item id), from [`build_grpo_rows`].
        eval_dataset (`Dataset`, *optional*):
            Rows of the same kind, for the rewards. Made from `eval_interactions` where absent.
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
            As [`~trl.GRPOTrainer`]'s; `peft_config` from [`lora_config`]. With adapters, the reference is the
            recommender without them.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import TSRecGRPOConfig, TSRecGRPOTrainer, build_grpo_rows, exact_match_reward

    >>> args = TSRecGRPOConfig(
    ...     tempfile.mkdtemp(), num_generations=4, per_device_train_batch_size=4, max_steps=1, report_to="none",
    ...     bf16=False, disable_tqdm=True,
    ... )
    >>> rows = build_grpo_rows(dataset.train, tokenizer)
    >>> trainer = TSRecGRPOTrainer(model, exact_match_reward, args, train_dataset=rows, processing_class=tokenizer)
    >>> trainer.train().global_step
    {'train_runtime': ...}
    1
    ```
    """

    METHOD = "GRPO"

    def __init__(
        self,
        model: PreTrainedModel | str,
        reward_funcs=None,
        args: TSRecGRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: TSRecTokenizer | None = None,
        eval_interactions: Dataset | None = None,
        card_facts: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        args = TSRecGRPOConfig("tsrec-grpo") if args is None else args
        if not isinstance(args, TSRecGRPOConfig):
            raise TypeError(f"Expected `args` to be a `TSRecGRPOConfig`, but found `{type(args).__name__}`.")
        if processing_class is None:
            if not isinstance(model, str):
                raise ValueError(
                    "Expected `processing_class`, the recommender's `TSRecTokenizer`, beside a loaded model."
                )
            processing_class = TSRecTokenizer.from_pretrained(model)
        for name in ("tools", "rollout_func", "environment_factory"):
            if kwargs.get(name):
                raise ValueError(f"`{name}` does not apply: completions come from the constrained tree search.")
        num_generations = max(args.num_generations, args.num_generations_eval or 0)
        num_sids = processing_class.sid_index.trie.num_leaves
        if num_generations > num_sids:
            raise ValueError(
                f"Expected a catalogue of at least `num_generations`={num_generations} SIDs, since a group's "
                f"completions are distinct, but found {num_sids}. Set `num_generations` to {num_sids} or less."
            )
        if eval_dataset is None and eval_interactions is not None and args.eval_num_users > 0:
            sample = self.sample_of(eval_interactions, args.eval_num_users)
            eval_dataset = build_grpo_rows(sample, processing_class)
        named = eval_dataset if isinstance(eval_dataset, dict) else {"evaluation": eval_dataset}
        for name, rows in {"train": train_dataset, **named}.items():
            if rows is not None:
                _check_rows(rows, name, processing_class)
        if eval_dataset is not None:
            args.check_evaluation_groups()
        if not isinstance(reward_funcs, (list, tuple)):
            reward_funcs = [] if reward_funcs is None else [reward_funcs]
        self._codes_rewards = {
            place: function if isinstance(function, RewardOnCodes) else RewardOnCodes(function, processing_class)
            for place, function in enumerate(reward_funcs)
            if isinstance(function, RewardOnCodes) or RewardOnCodes.applies_to(function)
        }
        reward_funcs = [self._codes_rewards.get(place, function) for place, function in enumerate(reward_funcs)]
        self._before_adapters(model, args, processing_class, kwargs.get("peft_config"))
        with _saved_policy(model, args, kwargs.get("peft_config")):
            super().__init__(
                model=model,
                reward_funcs=reward_funcs,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                **kwargs,
            )
        self.recommender.check_tokenizer(processing_class)
        self._after_adapters()
        reason = why_no_tree_mask(self.recommender.backbone)
        if reason is not None and (args.shared_prefix or args.scoring == "catalogue"):
            raise ValueError(
                "The completions of a prompt cannot share a pass through "
                f"`{type(self.recommender.backbone).__name__}`, since {reason}. Set `shared_prefix=False` and "
                "`scoring='vocabulary'`."
            )
        # TRL asks whether completions ended: a SID ends with a token of the last level.
        self.eos_token_ids = [*self.eos_token_ids, *processing_class.sid_token_ids[-1]]
        self.max_completion_length = processing_class.sid_index.num_levels
        trie = processing_class.sid_index.trie.to(self.accelerator.device)
        self._legal_tokens = LegalTokens(trie, processing_class.sid_token_ids)
        self._reader = CompletionReader(processing_class)
        self._drawn: list[list[int]] | None = None  # completions that dynamic sampling has found already
        self._level_rewards: torch.Tensor | None = None
        self._recommend_in_evaluation(eval_interactions)
        self._keep_card_facts(card_facts)
        self.add_callback(_StepCounter(self))

    def train(self, *args, **kwargs):
        """As the parent's; logs first what is trained."""
        if self.is_world_process_zero():
            logger.info(self.describe_trainable())
        return super().train(*args, **kwargs)

    @property
    def _group(self) -> int:
        return self.num_generations if self.model.training else self.num_generations_eval

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        # Rewards may ask for any column.
        rows = self.train_dataset if self.train_dataset is not None else self.eval_dataset
        self._signature_columns = sorted({*self._signature_columns, *getattr(rows, "column_names", []), "target"})

    def _tokenize_prompts(self, prompts: list):
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    # Rollouts

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        if self._drawn is not None:
            completion_ids, self._drawn = self._drawn, None
            return completion_ids, None
        groups = [prompt_ids[start : start + num_generations] for start in range(0, len(prompt_ids), num_generations)]
        split = next((group for group in groups if any(row != group[0] for row in group)), None)
        if split is not None or len(groups[-1]) != num_generations:
            raise ValueError(
                f"Expected each prompt {num_generations} times in a row, but found a group that is split. The data "
                "loader's batches must hold whole groups: do not change the sampler."
            )
        rolled = self._roll_out([group[0] for group in groups], num_generations)
        return [completion for group in rolled for completion in group], None

    def _roll_out(
        self, prompts: list[list[int]], num_generations: int, recommender: TSRecForCausalLM | None = None
    ) -> list[list[list[int]]]:
        with self.accelerator.autocast():
            return roll_out(
                self._searchable() if recommender is None else recommender,
                self.processing_class,
                prompts,
                num_generations,
                rollout=self.args.rollout,
                scoring=self.args.scoring,
                temperature=self.temperature,
            )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.args.dynamic_sampling and self.model.training:
            inputs = self._draw_groups_with_signal(inputs)
        output = super()._generate_and_score_completions(inputs)
        if self.args.advantage_level == "token":
            output["advantages"] = self._token_advantages(self._level_rewards)
        return output

    def _draw_groups_with_signal(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Rows of groups whose rewards differ, for as many prompts as came: first those that came, then others at random.

        Where too few are found, groups without signal fill the batch. Each process draws for itself.
        """
        group = self.num_generations
        wanted = len(inputs) // group
        # Not the global source of randomness, whose state rollouts and dropout share with a run without drawing.
        generator = torch.Generator().manual_seed(
            (self.args.seed * 1_000_003 + self._step) * self.accelerator.num_processes + self.accelerator.process_index
        )
        rows, found, spare, num_drawn = inputs[::group], [], [], 0
        # Once: FSDP gathers it on all processes together, and each draws as often as it must.
        recommender = self._searchable()
        while True:
            prompt_ids, *_ = self._tokenize_prompts([row["prompt"] for row in rows])
            completions = self._roll_out(prompt_ids, group, recommender)
            for row, completion_ids in zip(rows, completions):
                rewards = self._total_rewards([row] * group, completion_ids)
                has_signal = len(rewards) > 0 and np.ptp(rewards) > 1e-6
                (found if has_signal else spare).append((row, completion_ids))
            num_drawn += len(rows)
            if len(found) >= wanted or num_drawn + wanted > wanted * self.args.dynamic_sampling_max_draws:
                break
            places = torch.randint(len(self.train_dataset), (wanted,), generator=generator).tolist()
            rows = [self.train_dataset[place] for place in places]
        for name, value in {"drawn": num_drawn / wanted, "with_signal": min(1.0, len(found) / wanted)}.items():
            mean = self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).mean()
            self._metrics["train"][f"dynamic_sampling/{name}"].append(mean.item())
        kept = (found + spare)[:wanted]
        self._drawn = [completion for _, completion_ids in kept for completion in completion_ids]
        return [dict(row) for row, _ in kept for _ in range(group)]

    # Rewards

    def _total_rewards(self, rows: list[dict[str, Any]], completion_ids: list[list[int]]) -> np.ndarray:
        """Weighted rewards of a group's completions, those left out that no reward applies to."""
        completions = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
        columns |= {"trainer_state": self.state, "log_extra": lambda *args: None, "log_metric": lambda *args: None}
        for reward in self._codes_rewards.values():
            reward.num_generations = self.num_generations  # an evaluation's may differ
        prompts = [row["prompt"] for row in rows]
        kinds = [
            function(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
            for function in self.reward_funcs
        ]
        rewards = np.array(kinds, dtype=float).T  # (completions, rewards), NaN where one does not apply
        scored = ~np.isnan(rewards).all(axis=1)
        return np.nansum(rewards * self.reward_weights.tolist(), axis=1)[scored]

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        group = self._group
        for reward in self._codes_rewards.values():
            reward.num_generations = group
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.args.advantage_level == "token":
            self._level_rewards = self._rewards_by_level(inputs, completion_ids_list, rewards)
        self._log_hits(inputs, completion_ids_list, group)
        return rewards

    def _rewards_by_level(self, inputs, completion_ids_list, gathered: torch.Tensor) -> torch.Tensor:
        """
        Weighted rewards of each token of this process's completions: `(completions, levels)`, NaN for completions that
        no reward applies to.
        """
        first = self.accelerator.process_index * len(inputs)
        own = gathered[first : first + len(inputs)]
        levels = self.processing_class.sid_index.num_levels
        columns = {name: [row[name] for row in inputs] for name in inputs[0] if name != "prompt"}
        total = torch.zeros(len(inputs), levels, device=own.device)
        for place, weight in enumerate(self.reward_weights.tolist()):
            reward = self._codes_rewards.get(place)
            values = [None] * len(inputs) if reward is None else reward.values(completion_ids_list, **columns)
            part = own[:, place, None].repeat(1, levels)
            for row, value in enumerate(values):
                if np.ndim(value) == 1:
                    part[row] = torch.tensor(value, dtype=part.dtype)
            total += weight * part.masked_fill(own[:, place, None].isnan(), 0.0)
        return total.masked_fill(own.isnan().all(dim=1, keepdim=True), torch.nan)

    def _token_advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        """
        Advantages `(completions, levels)`: each level's rewards, less their group's mean and over its deviation; 0 for
        completions without rewards.
        """
        grouped = rewards.view(-1, self._group, rewards.shape[-1])
        advantages = grouped - grouped.nanmean(dim=1, keepdim=True)
        if self.scale_rewards == "group" and self._group > 1:
            advantages = advantages / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
        return advantages.flatten(0, 1).nan_to_num()

    def _log_hits(self, inputs, completion_ids_list, group: int) -> None:
        index = self.processing_class.sid_index
        codes = self._reader.codes_of(completion_ids_list)
        targets = index.codes[index.positions_of([row["target"] for row in inputs])]
        hits = torch.from_numpy((codes == targets).all(axis=1)).view(-1, group).to(self.accelerator.device)
        existing = torch.tensor(
            [min(row) >= 0 and index.trie.find(row) is not None for row in codes.tolist()], device=hits.device
        ).view(-1, group)
        hits, existing = self.accelerator.gather(hits), self.accelerator.gather(existing)
        metrics = self._metrics["train" if self.model.training else "eval"]
        found = hits.any(dim=1)
        ranks = hits.int().argmax(dim=1)[found].float() + 1
        metrics["hits/share_of_groups"].append(found.float().mean().item())
        # NaN where no group holds its target; TRL leaves it out of the mean over the steps between two logs.
        metrics["hits/mean_rank_of_target"].append(ranks.mean().item())
        metrics["completions/invalid"].append((~existing).float().mean().item())

    # Loss

    def _prepare_inputs(self, generation_batch):
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        # As TRL's, without the shuffle that would scatter the groups (TRL 1.16 has no option for that).
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            output = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(output, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        if not self.args.shared_prefix and self.args.scoring == "vocabulary":
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        if kwargs.get("compute_aux_loss"):
            raise ValueError(
                "The auxiliary loss of a mixture of experts needs `shared_prefix=False` and `scoring='vocabulary'`."
            )
        group = self._group if self.args.shared_prefix else 1
        rows = batch_size or len(input_ids)
        rows = max(rows // group, 1) * group
        parts = []
        for start in range(0, len(input_ids), rows):
            ids, mask = input_ids[start : start + rows], attention_mask[start : start + rows]
            with self.accelerator.autocast():
                scores = score_completions(
                    model,
                    self.recommender.config.get_text_config(),
                    self.recommender.dtype,
                    ids[::group, :-logits_to_keep],
                    mask[::group, :-logits_to_keep],
                    ids[:, -logits_to_keep:].unflatten(0, (-1, group)),
                    self._legal_tokens,
                    self.args.scoring,
                    self.temperature,
                    entropy_gradient=compute_entropy and self._entropy_bonus_enabled,
                )
            parts.append(scores)
        if compute_entropy:
            legal = torch.cat([part.legal_entropies for part in parts])
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["entropy_legal"].append(self.accelerator.gather(legal.mean()).mean().item())
        log_probs = torch.cat([part.log_probs for part in parts])
        return log_probs, torch.cat([part.entropies for part in parts]) if compute_entropy else None, None

    # Checkpoints

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if self.ref_model is not None and not self.args.save_only_model:
            # By all processes: FSDP gathers the shards of the weights.
            weights = get_model_state_dict(self.ref_model, options=WHOLE)
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            if self.args.should_save:
                reference = self.accelerator.unwrap_model(self.ref_model)
                with as_saved(reference):
                    reference.save_pretrained(folder / REFERENCE_FOLDER, state_dict=weights)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.ref_model is None:
            return
        folder = Path(checkpoint) / REFERENCE_FOLDER
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Expected the reference model in {folder}, but there is no such folder: the checkpoint was saved "
                "with `beta=0` or `save_only_model=True`. Resume from another one, or set `beta=0`."
            )
        saved = TSRecForCausalLM.from_pretrained(folder, dtype=self.recommender.dtype)
        set_model_state_dict(self.ref_model, saved.state_dict(), options=WHOLE)


class _StepCounter(TrainerCallback):
    """
    Sets TRL's count of batches on resume, which starts at 0 and decides when completions are generated.
    """

    def __init__(self, trainer: TSRecGRPOTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        step = state.global_step * args.gradient_accumulation_steps
        every = args.steps_per_generation * args.num_iterations
        if step % every:
            logger.warning(
                f"This run goes on at step {state.global_step}, in the middle of a generation: its completions are "
                "made anew by the present policy, so that it will not equal an uninterrupted run. Save at multiples "
                f"of {every // np.gcd(every, args.gradient_accumulation_steps)} steps."
            )
        self.trainer._step = step
        self.trainer._buffered_inputs = None


def _check_rows(rows: Dataset, name: str, tokenizer: TSRecTokenizer) -> None:
    if not isinstance(rows, Dataset):
        raise TypeError(
            f"Expected the {name} dataset to be a `datasets.Dataset`, but found `{type(rows).__name__}`, whose rows "
            "cannot be checked."
        )
    missing = {"prompt", "target"} - set(rows.column_names)
    if missing:
        raise ValueError(
            f"Expected a {name} dataset with `prompt` and `target`, but {sorted(missing)} are missing from "
            f"{rows.column_names}. Build it with `build_grpo_rows`."
        )
    if len(rows) == 0:
        raise ValueError(f"Expected a {name} dataset with rows, but found none. Pass a split that has some.")
    if not isinstance(rows[0]["prompt"], str):
        raise TypeError(
            f"Expected prompts of the {name} dataset as strings, but found `{type(rows[0]['prompt']).__name__}`. A "
            "recommender's prompts are no conversations: build them with `build_grpo_rows`."
        )
    tokenizer.sid_index.positions_of(rows.unique("target"))


class _saved_policy:
    """
    Lets TRL load the reference model of an in-memory policy from a copy of that policy.

    TRL 1.16 reloads the reference from `config._name_or_path`, which for a model changed in memory is another model.
    To be removed when it copies the policy.
    """

    def __init__(self, model, args: TSRecGRPOConfig, peft_config):
        is_plain = isinstance(model, TSRecForCausalLM) and peft_config is None
        self.model = model if is_plain and args.beta != 0.0 else None
        self.state = args.distributed_state

    def __enter__(self):
        if self.model is None:
            return
        self.name, self.folder = self.model.config._name_or_path, None
        paths = [None]
        if self.state.is_main_process:
            self.folder = tempfile.TemporaryDirectory()
            self.model.save_pretrained(self.folder.name)
            paths = [self.folder.name]
        if self.state.num_processes > 1:
            broadcast_object_list(paths)
        self.model.config._name_or_path = paths[0]

    def __exit__(self, *error):
        if self.model is None:
            return
        self.model.config._name_or_path = self.name
        if error[0] is None:
            self.state.wait_for_everyone()
        if self.folder is not None:
            self.folder.cleanup()
