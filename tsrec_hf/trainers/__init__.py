"""TRL's trainers for recommenders."""

from .sft_config import TSRecSFTConfig
from .sft_trainer import TSRecSFTTrainer


__all__ = ["TSRecSFTConfig", "TSRecSFTTrainer"]
