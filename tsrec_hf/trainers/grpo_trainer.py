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
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler, nanstd, split_tensor_dict

from tsrec_hf.data import build_grpo_rows
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.rewards import CompletionReader, Reward

from .backbone_checks import check_shared_prefix
from .base import RecommenderTrainer, checked_arguments, checked_tokenizer
from .branches import LegalTokens, score_completions
from .dynamic_sampling import Row, ScoredGroup, draw_groups_with_signal
from .grpo_checks import check_adapter_name, check_catalogue, check_rows
from .grpo_config import TSRecGRPOConfig
from .learning_checks import check_generation_batch, check_reward_weights
from .prompt_sampler import WholePassSampler
from .recommendation_metrics import evaluation_rows
from .reference import SavedPolicy, restore_reference, save_reference
from .rollouts import roll_out
from .step_counter import StepCounter
from .step_rewards import StepReward, as_step_reward, have_signal, weighted_rewards


logger = logging.getLogger(__name__)


class TSRecGRPOTrainer(RecommenderTrainer, GRPOTrainer):
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

    args: TSRecGRPOConfig
    model: torch.nn.Module
    processing_class: TSRecTokenizer
    train_dataset: Dataset | None
    num_generations: int  # the settings have set both
    num_generations_eval: int

    def __init__(
        self,
        model: PreTrainedModel | str,
        reward_funcs=None,
        args: TSRecGRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: TSRecTokenizer | None = None,
        eval_interactions: Dataset | Mapping[str, Dataset] | None = None,
        card_facts: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        args = checked_arguments(args, TSRecGRPOConfig, "tsrec-grpo")
        tokenizer = checked_tokenizer(processing_class, model)
        for name in ("tools", "rollout_func", "environment_factory"):
            if kwargs.get(name):
                raise ValueError(f"`{name}` does not apply: completions come from the constrained tree search.")
        self._reward_columns = [
            name for name in getattr(train_dataset, "column_names", None) or () if name != "prompt"
        ]
        if eval_dataset is None:
            build = partial(self._rows_of, tokenizer=tokenizer)
            eval_dataset = evaluation_rows(eval_interactions, args.eval_num_users, build)
        check_catalogue(args, tokenizer)
        check_adapter_name(model, args)
        named = eval_dataset if isinstance(eval_dataset, dict) else {"evaluation": eval_dataset}
        for name, rows in {"train": train_dataset, **named}.items():
            if rows is not None:
                check_rows(rows, name, tokenizer)
        if eval_dataset is not None:
            args.check_evaluation_groups()
        if not isinstance(reward_funcs, (list, tuple)):
            reward_funcs = [] if reward_funcs is None else [reward_funcs]
        check_reward_weights(args.reward_weights)
        reward_funcs = [as_step_reward(function, tokenizer) for function in reward_funcs]
        if args.dynamic_sampling and not all(isinstance(function, StepReward) for function in reward_funcs):
            raise ValueError(
                "`dynamic_sampling=True` rewards one group at a time, for which reward models and asynchronous "
                "functions are not called. Set `dynamic_sampling=False`, or pass plain functions."
            )
        with SavedPolicy(model, args, kwargs.get("peft_config")):
            super().__init__(
                model=model,
                reward_funcs=reward_funcs,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=tokenizer,
                eval_interactions=eval_interactions,
                card_facts=card_facts,
                **kwargs,
            )
        check_shared_prefix(self.recommender, tokenizer, args, self.aux_loss_enabled)
        # TRL asks whether completions ended: a SID ends with a token of the last level.
        self.eos_token_ids = [*self.eos_token_ids, *tokenizer.sid_token_ids[-1]]
        self.max_completion_length = tokenizer.sid_index.num_levels
        trie = tokenizer.sid_index.trie.to(self.accelerator.device)
        self._legal_tokens = LegalTokens(trie, tokenizer.sid_token_ids)
        self._reader = CompletionReader(tokenizer)
        self._drawn: list[list[int]] | None = None  # completions that dynamic sampling has found already
        self._targets: list[str] | None = None  # of the prompts that are rolled out
        self.add_callback(StepCounter(self))

    def train(self, *args, **kwargs):
        """As the parent's; logs first what is trained."""
        batch = cast(int, self.args.generation_batch_size) // self.num_generations
        check_generation_batch(len(cast(Dataset, self.train_dataset)), batch, self.num_generations)
        if self.is_world_process_zero():
            logger.info(self.describe_trainable())
        return super().train(*args, **kwargs)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    @property
    def _group(self) -> int:
        """Completions of a prompt."""
        return self.num_generations if self.model.training else self.num_generations_eval

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        # Rewards may ask for any column.
        rows = self.train_dataset if self.train_dataset is not None else self.eval_dataset
        self._signature_columns = sorted({*self._signature_columns, *getattr(rows, "column_names", []), "target"})

    def _rows_of(self, interactions: Dataset, tokenizer: TSRecTokenizer) -> Dataset:
        # Rewards ask for the same columns as in training.
        shared = [name for name in self._reward_columns if name in interactions.column_names]
        if len(shared) < len(self._reward_columns):
            absent = sorted(set(self._reward_columns) - set(shared))
            logger.warning(f"Interactions of the evaluation lack {absent} of the training rows: rewards get none.")
        return build_grpo_rows(interactions, tokenizer, shared)

    def _get_train_sampler(self, dataset: Dataset | None = None):
        sampler = WholePassSampler.like(cast(RepeatSampler, super()._get_train_sampler(dataset)))
        return self._seeded_by_pass(sampler)

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
        rolled = self._with_targets(self._roll_out([group[0] for group in groups], num_generations), self._targets)
        return [completion for group in rolled for completion in group], None

    def _roll_out(
        self, prompts: list[list[int]], num_generations: int, recommender: TSRecForCausalLM | None = None
    ) -> list[list[list[int]]]:
        try:
            with self.accelerator.autocast():
                return roll_out(
                    self.searchable() if recommender is None else recommender,
                    self.processing_class,
                    prompts,
                    num_generations,
                    rollout=self.args.rollout,
                    scoring=self.args.scoring,
                    temperature=self.temperature,
                )
        except FloatingPointError as error:
            raise self._not_finite(str(error)) from error

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        self._targets = self._targets_of(inputs[:: self._group])
        if self.args.dynamic_sampling and self.model.training:
            inputs = self._draw_groups(inputs)
        output = super()._generate_and_score_completions(inputs)
        if self.args.advantage_level == "token":
            output["advantages"] = self._token_advantages(self._level_rewards)
        return output

    def _targets_of(self, rows: list[Row]) -> list[str] | None:
        """The targets that groups must hold; groups of an evaluation are the policy's own."""
        return [row["target"] for row in rows] if self.args.include_target and self.model.training else None

    def _with_targets(self, groups: list[list[list[int]]], targets: list[str] | None) -> list[list[list[int]]]:
        """Groups with the SIDs of their targets, if given: in the last place where the search did not find them."""
        if targets is None:
            return groups
        return [
            group if target in group else [*group[:-1], target]
            for group, target in zip(groups, self.processing_class.encode_sids(targets), strict=True)
        ]

    def _draw_groups(self, inputs: list[Row]) -> list[Row]:
        """Replaces groups without signal. Each process draws for itself."""
        group = self.num_generations
        # Not the global source of randomness, whose state rollouts and dropout share with a run without drawing.
        generator = torch.Generator().manual_seed(
            (self.args.seed * 1_000_003 + self._step) * self.accelerator.num_processes + self.accelerator.process_index
        )
        # Once: FSDP gathers it on all processes together, and each draws as often as it must.
        recommender = self.searchable()

        def score(rows: list[Row]) -> list[ScoredGroup]:
            prompt_ids, *_ = self._tokenize_prompts([row["prompt"] for row in rows])
            completions = self._with_targets(self._roll_out(prompt_ids, group, recommender), self._targets_of(rows))
            try:
                return [self._scored(row, completion_ids) for row, completion_ids in zip(rows, completions)]
            except FloatingPointError as error:
                raise self._not_finite(str(error)) from error

        rows, dataset = inputs[::group], cast(Dataset, self.train_dataset)
        draw = draw_groups_with_signal(rows, dataset, score, self.args.dynamic_sampling_max_draws, generator)
        for name in ("drawn", "with_signal"):
            mean = self.accelerator.gather(torch.tensor([getattr(draw, name)], device=self.accelerator.device)).mean()
            self._metrics["train"][f"dynamic_sampling/{name}"].append(mean.item())
        self._drawn = [completion for scored in draw.groups for completion in scored.completion_ids]
        for place, reward in enumerate(self.reward_funcs):
            cast(StepReward, reward).hand_over([scored.calls[place] for scored in draw.groups])
        return [dict(scored.row) for scored in draw.groups for _ in range(group)]

    # Rewards

    def _scored(self, row: Row, completion_ids: list[list[int]]) -> ScoredGroup:
        """A group with its rewards, and whether they are a signal for the kind of advantages of this run."""
        group = len(completion_ids)
        batch = {name: [value] * group for name, value in row.items() if name != "prompt"}
        batch |= {
            "prompts": [row["prompt"]] * group,
            "completions": self.processing_class.batch_decode(completion_ids, skip_special_tokens=True),
            "trainer_state": cast(Any, self.state),
        }
        calls = [cast(StepReward, reward).compute(completion_ids, group, **batch) for reward in self.reward_funcs]
        levels = self.processing_class.sid_index.num_levels if self.args.advantage_level == "token" else None
        rewards = weighted_rewards([call.values for call in calls], self.reward_weights.tolist(), levels)
        return ScoredGroup(row, completion_ids, calls, have_signal(rewards))

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        for reward in self.reward_funcs:
            if isinstance(reward, StepReward):
                reward.num_generations = self._group
        try:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        except FloatingPointError as error:
            raise self._not_finite(str(error)) from error
        for name, function, column in zip(self.reward_func_names, self.reward_funcs, rewards.unbind(1)):
            # Of functions NaN is TRL's word for "does not apply".
            if column.isinf().any() or (isinstance(function, torch.nn.Module) and column.isnan().any()):
                raise self._not_finite(f"the reward {name!r} is no finite number")
        if self.args.advantage_level == "token":
            self._level_rewards = self._rewards_by_level(rewards, len(inputs))
        self._log_hits(inputs, completion_ids_list, self._group)
        return rewards

    def _rewards_by_level(self, gathered: torch.Tensor, num_completions: int) -> torch.Tensor:
        """
        Weighted rewards of each token of this process's completions: `(completions, levels)`, NaN for completions that
        no reward applies to.
        """
        first = self.accelerator.process_index * num_completions
        own = gathered[first : first + num_completions]
        values: list[list[Reward]] = [
            reward.values if isinstance(reward, StepReward) else own[:, place].tolist()
            for place, reward in enumerate(self.reward_funcs)
        ]
        total = weighted_rewards(values, self.reward_weights.tolist(), self.processing_class.sid_index.num_levels)
        return total.to(own.device, own.dtype)

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
        metrics = self._metrics[self._mode]
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
        with_aux_loss = bool(kwargs.get("compute_aux_loss"))
        group = self._group if self.args.shared_prefix else 1
        rows = batch_size or len(input_ids)
        rows = max(rows // group, 1) * group
        parts = []
        for start in range(0, len(input_ids), rows):
            ids, mask = input_ids[start : start + rows], attention_mask[start : start + rows]
            with self.accelerator.autocast():
                scores = score_completions(
                    model,
                    self.recommender.backbone,
                    ids[::group, :-logits_to_keep],
                    mask[::group, :-logits_to_keep],
                    ids[:, -logits_to_keep:].unflatten(0, (-1, group)),
                    self._legal_tokens,
                    self.args.scoring,
                    self.temperature,
                    entropy_gradient=compute_entropy and self._entropy_bonus_enabled,
                    shared_prefix=self.args.shared_prefix,
                    with_aux_loss=with_aux_loss,
                )
            parts.append(scores)
        if compute_entropy:
            legal = torch.cat([part.legal_entropies for part in parts])
            self._metrics[self._mode]["entropy_legal"].append(self.accelerator.gather(legal.mean()).mean().item())
        log_probs = torch.cat([part.log_probs for part in parts])
        entropies = torch.cat([part.entropies for part in parts]) if compute_entropy else None
        aux_losses = [part.aux_loss for part in parts if part.aux_loss is not None]
        return log_probs, entropies, torch.stack(aux_losses).mean() if aux_losses else None

    # Checkpoints

    def _save_more(self, checkpoint: Path) -> None:
        if self.ref_model is not None and not self.args.save_only_model:
            save_reference(
                self.ref_model, self.accelerator.unwrap_model(self.ref_model), checkpoint, self.args.should_save
            )

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.ref_model is not None:
            restore_reference(self.ref_model, Path(checkpoint), self.recommender.dtype)
