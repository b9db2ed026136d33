"""TRL's trainers for recommenders."""

from .adapters import load_recommender, lora_config, quantize, save_base
from .grpo_config import TSRecGRPOConfig
from .grpo_trainer import TSRecGRPOTrainer
from .sft_config import TSRecSFTConfig
from .sft_trainer import TSRecSFTTrainer


__all__ = [
    "TSRecGRPOConfig",
    "TSRecGRPOTrainer",
    "TSRecSFTConfig",
    "TSRecSFTTrainer",
    "load_recommender",
    "lora_config",
    "quantize",
    "save_base",
]
