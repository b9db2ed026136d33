"""TRL's trainers for recommenders."""

from .grounding import ground_sid_rows
from .grpo_config import TSRecGRPOConfig
from .grpo_trainer import TSRecGRPOTrainer
from .lora import lora_config, quantize, save_base
from .progress_bar import ProgressBarCallback
from .sft_config import TSRecSFTConfig
from .sft_trainer import TSRecSFTTrainer
from .time_limit import TimeLimitCallback


__all__ = [
    "ProgressBarCallback",
    "TSRecGRPOConfig",
    "TSRecGRPOTrainer",
    "TSRecSFTConfig",
    "TSRecSFTTrainer",
    "TimeLimitCallback",
    "ground_sid_rows",
    "lora_config",
    "quantize",
    "save_base",
]
