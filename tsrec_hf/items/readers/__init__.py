"""Readers of file formats. All cleaning is done by [`~items.tidy`], which the readers of logs also call."""

from .amazon import load_amazon
from .dialects import TableFile
from .lcrec import load_lcrec
from .minionerec import load_minionerec, save_minionerec
from .published import PUBLISHED, load_published
from .recbole import load_recbole
from .sequences import load_sequences
from .table import load_table


__all__ = [
    "PUBLISHED",
    "TableFile",
    "load_amazon",
    "load_lcrec",
    "load_minionerec",
    "load_published",
    "load_recbole",
    "load_sequences",
    "load_table",
    "save_minionerec",
]
