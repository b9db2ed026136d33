"""Readers: each gives the raw tables of one format, and leaves all cleaning to [`~items.tidy`]."""

from .amazon import load_amazon
from .minionerec import load_minionerec, save_minionerec
from .recbole import load_recbole
from .table import load_table


__all__ = ["load_amazon", "load_minionerec", "load_recbole", "load_table", "save_minionerec"]
