from dataclasses import dataclass, field
from typing import Literal

from trl import GRPOConfig

from .arguments import RecommenderArguments
from .option_checks import REFUSED_BY_GRPO, check_options


@dataclass
class TSRecGRPOConfig(RecommenderArguments, GRPOConfig):
    r"""
    Settings of [`TSRecGRPOTrainer`] on top of [`~trl.GRPOConfig`], whose options keep their meaning. Where there is no
    accelerator, `use_cpu` turns itself on.

    Parameters:
        > Parameters that control the rollouts

        rollout (`str`, *optional*, defaults to `"beam"`):
            Where a prompt's `num_generations` SIDs come from: `"beam"`, the most probable ones; `"sample"`, drawn
            without replacement from the model's distribution over the catalogue; `"mixed"`, one half each.
        scoring (`str`, *optional*, defaults to `"vocabulary"`):
            `"vocabulary"` takes log-probabilities over the whole vocabulary, as TRL does; `"catalogue"` renormalises
            them over the tokens that continue a SID that exists, so that the policy that is trained is the one that
            is sampled.
        include_target (`bool`, *optional*, defaults to `False`):
            Whether a training group always holds its prompt's target: where the search did not find it, it takes the
            place of the least probable SID, so that no group is without a hit.
        dynamic_sampling (`bool`, *optional*, defaults to `False`):
            Whether groups whose rewards are all equal, which teach nothing, are replaced by other prompts. With
            advantages of tokens, rewards that differ at one level are a signal.
        dynamic_sampling_max_draws (`int`, *optional*, defaults to `4`):
            Most prompts to draw for each that is needed.

        > Parameters that control the loss

        shared_prefix (`bool`, *optional*, defaults to `True`):
            Whether the completions of a prompt share one forward and backward pass. The same numbers as `False`,
            which computes the prompt once for each completion, at a fraction of time and memory. `False` with scoring
            `"vocabulary"` is TRL's own path, which cannot log the entropy over legal tokens.
        advantage_level (`str`, *optional*, defaults to `"sequence"`):
            `"sequence"` gives all tokens of a completion its advantage; `"token"` gives each its own, from rewards per
            level; rewards without levels count at every token.

        > Parameters that control what is trained

        freeze_backbone (`bool`, *optional*, defaults to `False`):
            Whether to train the SID rows of the embeddings alone, everything else staying bit for bit. For adapters
            see [`lora_config`].

        > Parameters that control the evaluation by recommendation

        eval_num_users (`int`, *optional*, defaults to `256`):
            Rows of `eval_interactions` that are recommended for at each evaluation: a fixed sample, the same whatever
            the seed. `0` turns it off.
        eval_num_beams (`int`, *optional*, defaults to `20`):
            Beams of that search.
        eval_recommend_batch_size (`int`, *optional*, defaults to `16`):
            Users searched together.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import TSRecGRPOConfig

    >>> args = TSRecGRPOConfig(tempfile.mkdtemp(), num_generations=4, per_device_train_batch_size=8, bf16=False)
    >>> args.rollout, args.shared_prefix, args.scoring
    ('beam', True, 'vocabulary')
    ```
    """

    rollout: Literal["beam", "sample", "mixed"] = field(
        default="beam", metadata={"help": "Where the completions of a prompt come from."}
    )
    scoring: Literal["vocabulary", "catalogue"] = field(
        default="vocabulary", metadata={"help": "What log-probabilities are normalised over."}
    )
    include_target: bool = field(
        default=False, metadata={"help": "Put the target of a prompt into its group where the search did not find it."}
    )
    dynamic_sampling: bool = field(
        default=False, metadata={"help": "Replace groups whose rewards are all equal by other prompts."}
    )
    dynamic_sampling_max_draws: int = field(
        default=4, metadata={"help": "Most prompts to draw for each that is needed."}
    )
    shared_prefix: bool = field(
        default=True, metadata={"help": "Share one forward and backward pass among the completions of a prompt."}
    )
    advantage_level: Literal["sequence", "token"] = field(
        default="sequence", metadata={"help": "One advantage for a completion, or one for each of its tokens."}
    )

    def __post_init__(self):
        if self.num_generations < 2 or (self.num_generations_eval or 1) < 1:
            raise ValueError(
                "Expected `num_generations` of at least 2, which are compared with each other, and "
                f"`num_generations_eval` of at least 1, but found {self.num_generations} and "
                f"{self.num_generations_eval}."
            )
        check_options(self, REFUSED_BY_GRPO)
        # Groups are checked first: TRL's own message knows the whole batch only.
        self._check_groups("per_device_train_batch_size", "num_generations", self.num_generations)
        if self.eval_strategy != "no" or self.num_generations_eval:
            self.check_evaluation_groups()
        super().__post_init__()
        for name, allowed in {
            "rollout": ("beam", "sample", "mixed"),
            "scoring": ("vocabulary", "catalogue"),
            "advantage_level": ("sequence", "token"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"Expected `{name}` to be one of {allowed}, but found {getattr(self, name)!r}.")
        if self.pad_to_multiple_of:
            raise ValueError("`pad_to_multiple_of` does not apply: completions are of equal length. Leave it out.")
        if self.mask_truncated_completions:
            raise ValueError("`mask_truncated_completions` does not apply: a SID is always whole. Leave it off.")
        if not self.temperature > 0:
            raise ValueError(f"Expected a positive `temperature`, but found {self.temperature}.")
        if self.advantage_level == "token" and (
            self.scale_rewards not in ("group", "none") or self.multi_objective_aggregation != "sum_then_normalize"
        ):
            raise ValueError(
                "Advantages of tokens are made within groups: set `scale_rewards` to 'group' or 'none' and "
                f"`multi_objective_aggregation='sum_then_normalize'`, not {self.scale_rewards!r} and "
                f"{self.multi_objective_aggregation!r}."
            )
        if self.dynamic_sampling_max_draws < 1:
            raise ValueError(
                f"Expected `dynamic_sampling_max_draws` of at least 1, but found {self.dynamic_sampling_max_draws}."
            )

    def check_evaluation_groups(self) -> None:
        """Raises `ValueError` if batches of an evaluation would split its groups."""
        name = "num_generations_eval" if self.num_generations_eval else "num_generations"
        self._check_groups("per_device_eval_batch_size", name, getattr(self, name))

    def _check_groups(self, batch_name: str, group_name: str, group: int) -> None:
        batch = getattr(self, batch_name)
        if batch % group:
            raise ValueError(
                f"A group must not be split among batches, but `{batch_name}`={batch} is no multiple of "
                f"`{group_name}`={group}. Set `{batch_name}` to {max(1, batch // group) * group}, for example."
            )
