"""What we recommend and who took it: readers, splits and the dataset they make."""

from .dataset import RecommendationDataset
from .minionerec import load_minionerec
from .recbole import RecBoleData, load_recbole
from .splits import chronological_split


__all__ = [
    "RecBoleData",
    "RecommendationDataset",
    "chronological_split",
    "load_minionerec",
    "load_recbole",
]
