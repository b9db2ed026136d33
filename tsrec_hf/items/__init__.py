"""Catalogues and interaction logs: readers, filters, splits and the data set built from them."""

from .cleaning import clean_text
from .dataset import RecommendationDataset
from .dataset_card import build_dataset_card
from .kcore import k_core
from .log import InteractionLog
from .opening import open_dataset
from .readers import (
    TableFile,
    load_amazon,
    load_lcrec,
    load_minionerec,
    load_published,
    load_recbole,
    load_sequences,
    load_table,
    save_minionerec,
)
from .showcase import Showcase, ShownUser
from .splits import chronological_split, leave_one_out_split
from .summary import LogSummary
from .tidying import tidy


__all__ = [
    "InteractionLog",
    "LogSummary",
    "RecommendationDataset",
    "Showcase",
    "ShownUser",
    "TableFile",
    "build_dataset_card",
    "chronological_split",
    "clean_text",
    "k_core",
    "leave_one_out_split",
    "load_amazon",
    "load_lcrec",
    "load_minionerec",
    "load_published",
    "load_recbole",
    "load_sequences",
    "load_table",
    "open_dataset",
    "save_minionerec",
    "tidy",
]
