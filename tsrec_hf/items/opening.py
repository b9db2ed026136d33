"""Open a prepared data set in the native layout or in MiniOneRec's."""

from pathlib import Path

from .dataset import RecommendationDataset
from .layout import FACTS_NAME, MINIONEREC_INDEX_NAME
from .readers.minionerec import load_minionerec


def open_dataset(directory: str | Path) -> RecommendationDataset:
    r"""
    Opens a prepared data set, recognising its layout: native ([`RecommendationDataset.save`]) or MiniOneRec's.

    Args:
        directory (`str` or `Path`):
            The folder.

    Returns:
        [`RecommendationDataset`]: The result of [`RecommendationDataset.load`] or [`load_minionerec`].

    Raises:
        `FileNotFoundError`: a folder of neither layout. `ValueError`: a folder of both, or one with wrong files.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import open_dataset

    >>> open_dataset(dataset.save(tempfile.mkdtemp())).max_history == dataset.max_history
    True
    ```
    """
    directory = Path(directory)
    is_minionerec = (directory / MINIONEREC_INDEX_NAME).is_file()
    if is_minionerec and (directory / FACTS_NAME).is_file():
        raise ValueError(
            f"Expected one layout in {directory}, but found {FACTS_NAME} and {MINIONEREC_INDEX_NAME}, two SID "
            "indexes. Move one of the two data sets to a folder of its own."
        )
    return load_minionerec(directory) if is_minionerec else RecommendationDataset.load(directory)
