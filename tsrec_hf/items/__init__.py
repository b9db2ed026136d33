"""What we recommend and who took it: readers, filters, splits and the dataset they make."""

from .amazon import load_amazon
from .cleaning import clean_text
from .dataset import RecommendationDataset
from .kcore import k_core
from .log import InteractionLog
from .minionerec import load_minionerec, save_minionerec
from .opening import open_dataset
from .recbole import RecBoleData, load_recbole
from .splits import chronological_split, leave_one_out_split
from .summary import LogSummary
from .table import load_table
from .tidying import tidy


__all__ = [
    "InteractionLog",
    "LogSummary",
    "RecBoleData",
    "RecommendationDataset",
    "chronological_split",
    "clean_text",
    "k_core",
    "leave_one_out_split",
    "load_amazon",
    "load_minionerec",
    "load_recbole",
    "load_table",
    "open_dataset",
    "save_minionerec",
    "tidy",
]
