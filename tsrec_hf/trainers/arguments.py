"""Settings that all trainers of a recommender share."""

import logging
import re
from dataclasses import dataclass, field

import torch

from .finite import check_finite_settings
from .secrets import Secret


logger = logging.getLogger(__name__)

# Instruction sets of x86 and ARM that multiply bfloat16 numbers, as `torch.cpu.get_capabilities` calls them.
BFLOAT16_UNITS = ("amx_bf16", "bf16", "sve_bf16")
# Intel's cores multiply float32 as fast, and oneDNN's kernels reach less with it there (81 against 134 GFLOPS a core).
BFLOAT16_UNIT_OF_AMD = "avx512_bf16"

# Metrics of the trainers of which less is better, and whose names do not say so to transformers.
LOWER_IS_BETTER = re.compile(r"loss/|/mean_rank_of_target$|completions/invalid$|(^|_)kl$")


def cpu_has_bfloat16() -> bool:
    """
    Whether this processor multiplies bfloat16 faster than float32: with AMX, AMD's AVX-512 or ARM's units.

    Others emulate it, many times more slowly than float32, or gain nothing (Intel's AVX-512 without AMX).

    Example:

    ```python
    >>> from tsrec_hf.trainers import cpu_has_bfloat16

    >>> cpu_has_bfloat16() in (True, False)
    True
    ```
    """
    found = torch.cpu.get_capabilities()
    of_amd = found.get(BFLOAT16_UNIT_OF_AMD, False) and "intel" not in found.get("cpu_name", "").lower()
    return of_amd or any(found.get(unit, False) for unit in BFLOAT16_UNITS)


@dataclass
class RecommenderArguments:
    """
    Fields of a trainer's settings beside those of TRL's class, which stands behind this one among the bases.

    `bf16` is by default what the device is fast in: `False` on a CPU that is not faster in bfloat16, where TRL's
    default is `True`. Of several processes those after the first log errors only (`log_level_replica`).

    Parameters:
        > Parameters that control what is trained

        activation_checkpointing (`bool`, *optional*):
            Whether to compute activations again in the backward pass, to save memory; default: TRL's.
        freeze_backbone (`bool`, *optional*, defaults to `False`):
            Whether to train the SID rows of the embeddings alone; everything else stays bit for bit.

        > Parameters that control the evaluation by recommendation

        eval_num_users (`int`, *optional*, defaults to `256`):
            Rows of `eval_interactions` that are recommended for at each evaluation: a fixed sample, the same whatever
            the seed. `0` turns it off.
        eval_num_beams (`int`, *optional*, defaults to `20`):
            Beams of that search.
        eval_recommend_batch_size (`int`, *optional*, defaults to `16`):
            Users searched together.
    """

    # transformers before 5.23 has it under the old name only; can go when those are no longer supported.
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Compute activations again in the backward pass, to save memory."}
    )
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Train the SID rows of the embeddings alone; all else stays bit for bit."}
    )
    eval_num_users: int = field(
        default=256, metadata={"help": "Rows of `eval_interactions` to recommend for at each evaluation; 0 for none."}
    )
    eval_num_beams: int = field(default=20, metadata={"help": "Beams of the search during evaluation."})
    eval_recommend_batch_size: int = field(default=16, metadata={"help": "Users searched together in evaluation."})
    log_level_replica: str = field(
        default="error", metadata={"help": "Level of logs of the processes after the first."}
    )

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            # TRL trains in bf16 by default, which transformers refuses on a CPU that was not asked for.
            self.use_cpu = True
        if getattr(self, "use_cpu") and not cpu_has_bfloat16():
            if getattr(self, "bf16") is None:
                setattr(self, "bf16", False)
            elif getattr(self, "bf16"):
                logger.warning(
                    "Expected `bf16=False` on a processor that is not faster in bfloat16, but found True: training is "
                    "slower than in float32, many times without instructions for it. Leave `bf16` out."
                )
        if self.activation_checkpointing is None:
            # TRL 1.16 has its default under the old name, of which transformers warns as if a user had passed it.
            self.activation_checkpointing = getattr(self, "gradient_checkpointing")
        else:
            setattr(self, "gradient_checkpointing", self.activation_checkpointing)
        metric = getattr(self, "metric_for_best_model")
        if getattr(self, "greater_is_better") is None and metric is not None:
            # transformers takes only names that end in "loss" for losses; there are losses of tasks too.
            setattr(self, "greater_is_better", False if LOWER_IS_BETTER.search(str(metric)) else None)
        check_finite_settings(self)
        super().__post_init__()  # type: ignore[misc]  # TRL's, which comes next among the bases
        check_finite_settings(self)  # what was JSON before
        if getattr(self, "hub_token") is not None:
            setattr(self, "hub_token", Secret(getattr(self, "hub_token")))
        if str(getattr(self, "resume_from_checkpoint")).lower() in ("false", "none", ""):
            setattr(self, "resume_from_checkpoint", None)  # the command line gives words
        weight_decay = self.weight_decay  # type: ignore[attr-defined]  # of `TrainingArguments`
        if self.freeze_backbone and weight_decay != 0.0:
            raise ValueError(
                f"`freeze_backbone=True` keeps all other rows as they are, but weight_decay={weight_decay} would "
                "shrink them. Set `weight_decay=0.0`."
            )
        if self.eval_num_users < 0 or self.eval_num_beams < 1 or self.eval_recommend_batch_size < 1:
            raise ValueError(
                "Expected `eval_num_users` of at least 0, `eval_num_beams` and `eval_recommend_batch_size` of at "
                f"least 1, but found {self.eval_num_users}, {self.eval_num_beams} and "
                f"{self.eval_recommend_batch_size}."
            )
