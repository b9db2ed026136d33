"""Semantic IDs: from item texts and images to embeddings to integer codes."""

from .collisions import resolve_collisions
from .embedding import mean_pooled_embeddings
from .interaction_embedding import embed_interactions, fill_from_neighbours
from .item_embedding import embed_items
from .quantizer import Quantizer
from .report import SIDReport, sid_report
from .residual_kmeans import ResidualKMeans
from .rqvae import RQVAE


__all__ = [
    "Quantizer",
    "RQVAE",
    "ResidualKMeans",
    "SIDReport",
    "embed_interactions",
    "embed_items",
    "fill_from_neighbours",
    "mean_pooled_embeddings",
    "resolve_collisions",
    "sid_report",
]
