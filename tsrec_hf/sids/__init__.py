try:
    import faiss
except ImportError as error:
    raise ImportError(
        '`tsrec_hf.sids` needs faiss, which is not installed. Install it with `pip install "tsrec_hf[sids]"`.'
    ) from error

from .embedding import mean_pooled_embeddings
from .residual_kmeans import ResidualKMeans


__all__ = ["ResidualKMeans", "mean_pooled_embeddings"]
