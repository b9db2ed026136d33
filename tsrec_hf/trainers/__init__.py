"""TRL's trainers for recommenders."""

from .adapters import load_recommender, lora_config, quantize, save_base
from .grpo_config import TSRecGRPOConfig
from .grpo_trainer import TSRecGRPOTrainer
from .sft_config import TSRecSFTConfig
from .sft_trainer import TSRecSFTTrainer
from .time_limit import TimeLimitCallback


__all__ = [
    "TSRecGRPOConfig",
    "TSRecGRPOTrainer",
    "TSRecSFTConfig",
    "TSRecSFTTrainer",
    "TimeLimitCallback",
    "load_recommender",
    "lora_config",
    "quantize",
    "save_base",
]
