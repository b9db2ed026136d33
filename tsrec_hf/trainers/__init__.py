"""TRL's trainers for recommenders."""

from .arguments import cpu_has_bfloat16
from .grounding import ground_sid_rows
from .grpo_config import TSRecGRPOConfig
from .grpo_trainer import TSRecGRPOTrainer
from .lora import lora_config, quantize, save_base
from .progress_bar import ProgressBarCallback
from .run_clock import RunClock
from .sft_config import TSRecSFTConfig
from .sft_trainer import TSRecSFTTrainer
from .threads import choose_num_threads
from .time_limit import TimeLimitCallback


__all__ = [
    "ProgressBarCallback",
    "RunClock",
    "TSRecGRPOConfig",
    "TSRecGRPOTrainer",
    "TSRecSFTConfig",
    "TSRecSFTTrainer",
    "TimeLimitCallback",
    "choose_num_threads",
    "cpu_has_bfloat16",
    "ground_sid_rows",
    "lora_config",
    "quantize",
    "save_base",
]
