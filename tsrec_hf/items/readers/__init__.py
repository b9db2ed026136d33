"""Readers of file formats. All cleaning is done by [`~items.tidy`], which `load_amazon` and `load_table` also call."""

from .amazon import load_amazon
from .minionerec import load_minionerec, save_minionerec
from .recbole import load_recbole
from .table import load_table


__all__ = ["load_amazon", "load_minionerec", "load_recbole", "load_table", "save_minionerec"]
