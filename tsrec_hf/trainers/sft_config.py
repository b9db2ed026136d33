from dataclasses import dataclass, field
from typing import Any

import torch
from trl import SFTConfig

from tsrec_hf.data import BUILT_IN_TASKS

from .sid_rows import check_freezing


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

        freeze_backbone (`bool`, *optional*, defaults to `False`):
            Whether to train the SID rows of the embeddings alone, everything else staying bit for bit: the grounding
            stage, before a second one that trains everything. For adapters see [`lora_config`].

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import TSRecSFTConfig

    >>> args = TSRecSFTConfig(tempfile.mkdtemp(), task_weights={"title": 0.5}, activation_checkpointing=False)
    >>> args.eval_num_users, args.freeze_backbone
    (256, False)
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
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Train the SID rows of the embeddings alone; all else stays bit for bit."}
    )

    def __post_init__(self):
        if not torch.accelerator.is_available():
            # TRL trains in bf16 by default, which transformers refuses on a CPU that was not asked for.
            self.use_cpu = True
        super().__post_init__()
        check_freezing(self)
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
        if not isinstance(weights, dict) or not set(weights) <= set(BUILT_IN_TASKS) or min(weights.values()) < 0:
            raise ValueError(
                "Expected `task_weights` as a dict, or a string of JSON, with numbers of at least 0 for some of "
                f"{BUILT_IN_TASKS}, but found {weights!r}."
            )
        if self.loss_type != "nll" or self.label_smoothing_factor != 0:
            raise ValueError(
                f"`task_weights` are factors of the negative log-likelihood, but found loss_type={self.loss_type!r} "
                f"and label_smoothing_factor={self.label_smoothing_factor}. Leave these at their defaults, or weigh "
                "the tasks by `weights` of `build_sft_mixture`."
            )
