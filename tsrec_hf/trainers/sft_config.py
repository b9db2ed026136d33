from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from .arguments import RecommenderArguments
from .option_checks import REFUSED_BY_SFT, check_options


@dataclass
class TSRecSFTConfig(RecommenderArguments, SFTConfig):
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
            Factor of the loss of each task, by its name (`"sequence"`, `"title"`, `"history_title"`, `"alignment"`, or
            that of a task of your own); 1 where absent.

        > Parameters that control what is trained

        freeze_backbone (`bool`, *optional*, defaults to `False`):
            Whether to train the SID rows of the embeddings alone, everything else staying bit for bit. For this as a
            first stage see [`ground_sid_rows`], for adapters [`lora_config`].

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

    task_weights: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Factor of each task's loss, 1 where absent."}
    )

    def __post_init__(self):
        check_options(self, REFUSED_BY_SFT)
        super().__post_init__()
        if self.packing or self.padding_free:
            raise ValueError(
                "Packed and padding-free batches drop the rows' tasks and positions, which `TSRecSFTTrainer` needs. "
                "Set `packing=False` and `padding_free=False`; `train_sampling_strategy='group_by_length'` keeps "
                "padding low."
            )
        if self.task_weights:
            self._check_task_weights()

    def _check_task_weights(self) -> None:
        weights = self.task_weights
        if not isinstance(weights, dict) or min(weights.values()) < 0:
            raise ValueError(
                "Expected `task_weights` as a dict, or a string of JSON, with a number of at least 0 for each name of "
                f"a task, but found {weights!r}."
            )
        if self.loss_type != "nll" or self.label_smoothing_factor != 0:
            raise ValueError(
                f"`task_weights` are factors of the negative log-likelihood, but found loss_type={self.loss_type!r} "
                f"and label_smoothing_factor={self.label_smoothing_factor}. Leave these at their defaults, or weigh "
                "the tasks by `weights` of `build_sft_mixture`."
            )
