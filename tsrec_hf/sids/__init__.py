"""Semantic IDs: from item texts and images to embeddings to integer codes."""

from .catalogue import propose_level_sizes
from .collisions import collision_groups, resolve_collisions
from .distinctness import equal_vector_share, refuse_equal_vectors
from .embedding import mean_pooled_embeddings
from .interaction_embedding import embed_interactions, fill_from_neighbours, join_collaborative
from .item_embedding import embed_items
from .quantizer import Quantizer
from .report import SIDReport, sid_report
from .residual_kmeans import ResidualKMeans
from .rqvae import RQVAE
from .transitions import item_transitions, next_prefix_hits


__all__ = [
    "Quantizer",
    "RQVAE",
    "ResidualKMeans",
    "SIDReport",
    "collision_groups",
    "embed_interactions",
    "embed_items",
    "equal_vector_share",
    "fill_from_neighbours",
    "item_transitions",
    "join_collaborative",
    "mean_pooled_embeddings",
    "next_prefix_hits",
    "propose_level_sizes",
    "refuse_equal_vectors",
    "resolve_collisions",
    "sid_report",
]
