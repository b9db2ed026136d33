"""TRL's trainers for recommenders."""

from .grpo_config import TSRecGRPOConfig
from .grpo_trainer import TSRecGRPOTrainer
from .lora import lora_config, quantize, save_base
from .sft_config import TSRecSFTConfig
from .sft_trainer import TSRecSFTTrainer


__all__ = [
    "TSRecGRPOConfig",
    "TSRecGRPOTrainer",
    "TSRecSFTConfig",
    "TSRecSFTTrainer",
    "lora_config",
    "quantize",
    "save_base",
]
