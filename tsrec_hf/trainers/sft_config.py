from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from trl import SFTConfig

from tsrec_hf.data import TASKS


@dataclass
class TSRecSFTConfig(SFTConfig):
    r"""
    Settings of [`TSRecSFTTrainer`] on top of [`~trl.SFTConfig`]. Where there is no accelerator, `use_cpu` turns itself
    on.

    Parameters:
        > Parameters that control the evaluation by recommendation

        eval_num_users (`int`, *optional*, defaults to `256`):
            Rows of `eval_interactions` that are recommended for at each evaluation: a fixed sample, the same whatever
            the seed. `0` turns it off.
        eval_num_beams (`int`, *optional*, defaults to `20`):
            Beams of that search.
        eval_recommend_batch_size (`int`, *optional*, defaults to `16`):
            Users searched together.

        > Parameters that control the loss

        task_weights (`dict[str, float]`, *optional*):
            Factor of the loss of each task (`"sequence"`, `"title"`, `"history_title"`, `"alignment"`); 1 where
            absent.

        > Parameters that control what is trained

        trainable_part (`str`, *optional*, defaults to `"all"`):
            `"all"` parameters, or the `"sid_rows"` of the embeddings alone, everything else staying bit for bit: the
            grounding stage, before a second one that trains everything.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import TSRecSFTConfig

    >>> args = TSRecSFTConfig(tempfile.mkdtemp(), task_weights={"title": 0.5}, activation_checkpointing=False)
    >>> args.eval_num_users, args.trainable_part
    (256, 'all')
    ```
    """

    # Settings that the command line may give as JSON.
    _VALID_DICT_FIELDS = SFTConfig._VALID_DICT_FIELDS + ["task_weights"]

    eval_num_users: int = field(
        default=256, metadata={"help": "Rows of `eval_interactions` to recommend for at each evaluation; 0 for none."}
    )
    eval_num_beams: int = field(default=20, metadata={"help": "Beams of the search during evaluation."})
    eval_recommend_batch_size: int = field(default=16, metadata={"help": "Users searched together in evaluation."})
    task_weights: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Factor of each task's loss, 1 where absent."}
    )
    trainable_part: Literal["all", "sid_rows"] = field(
        default="all", metadata={"help": "Train all parameters, or the SID rows of the embeddings alone."}
    )

    def __post_init__(self):
        if not torch.accelerator.is_available():
            # TRL trains in bf16 by default, which transformers refuses on a CPU that was not asked for.
            self.use_cpu = True
        super().__post_init__()
        if self.trainable_part not in ("all", "sid_rows"):
            raise ValueError(f"Expected `trainable_part` 'all' or 'sid_rows', but found {self.trainable_part!r}.")
        if self.trainable_part == "sid_rows" and self.weight_decay != 0.0:
            raise ValueError(
                f"`trainable_part='sid_rows'` keeps all other rows as they are, but weight_decay={self.weight_decay} "
                "would shrink them. Set `weight_decay=0.0`."
            )
        if self.packing or self.padding_free:
            raise ValueError(
                "Packed and padding-free batches drop the rows' tasks and positions, which `TSRecSFTTrainer` needs. "
                "Set `packing=False` and `padding_free=False`; `train_sampling_strategy='group_by_length'` keeps "
                "padding low."
            )
        if self.eval_num_users < 0 or self.eval_num_beams < 1 or self.eval_recommend_batch_size < 1:
            raise ValueError(
                "Expected `eval_num_users` of at least 0, `eval_num_beams` and `eval_recommend_batch_size` of at "
                f"least 1, but found {self.eval_num_users}, {self.eval_num_beams} and "
                f"{self.eval_recommend_batch_size}."
            )
        if self.task_weights:
            self._check_task_weights()

    def _check_task_weights(self) -> None:
        weights = self.task_weights
        if not isinstance(weights, dict) or not set(weights) <= set(TASKS) or min(weights.values()) < 0:
            raise ValueError(
                "Expected `task_weights` as a dict, or a string of JSON, with numbers of at least 0 for some of "
                f"{TASKS}, but found {weights!r}."
            )
        if self.loss_type != "nll" or self.label_smoothing_factor != 0:
            raise ValueError(
                f"`task_weights` are factors of the negative log-likelihood, but found loss_type={self.loss_type!r} "
                f"and label_smoothing_factor={self.label_smoothing_factor}. Leave these at their defaults, or weigh "
                "the tasks by `weights` of `build_sft_mixture`."
            )
