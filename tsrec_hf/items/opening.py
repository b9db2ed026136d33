"""Open a prepared data set in the native layout, in MiniOneRec's or in LC-Rec's."""

from pathlib import Path

from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.file_sets_tsrec import finish_sets

from .dataset import RecommendationDataset
from .layout import FACTS_NAME, MINIONEREC_INDEX_NAME
from .readers.lcrec import is_lcrec, load_lcrec
from .readers.minionerec import load_minionerec


@checks_types
def open_dataset(directory: str | Path) -> RecommendationDataset:
    r"""
    Opens a prepared data set, recognising its layout: native ([`RecommendationDataset.save`]), MiniOneRec's or
    LC-Rec's.

    Args:
        directory (`str` or `Path`):
            The folder; of LC-Rec's layout also the common name of the files, or one of several files of SIDs.

    Returns:
        [`RecommendationDataset`]: The result of [`RecommendationDataset.load`], [`load_minionerec`] or [`load_lcrec`].

    Raises:
        `FileNotFoundError`: a folder of none of the layouts. `ValueError`: a folder of two, or one with wrong files.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import open_dataset

    >>> open_dataset(dataset.save(tempfile.mkdtemp())).max_history == dataset.max_history
    True
    ```
    """
    directory = Path(directory)
    finish_sets(directory)
    is_minionerec = (directory / MINIONEREC_INDEX_NAME).is_file()
    if is_minionerec and (directory / FACTS_NAME).is_file():
        raise ValueError(
            f"Expected one layout in {directory}, but found {FACTS_NAME} and {MINIONEREC_INDEX_NAME}, two SID "
            "indexes. Move one of the two data sets to a folder of its own."
        )
    if not is_minionerec and not (directory / FACTS_NAME).is_file() and is_lcrec(directory):
        return load_lcrec(directory)
    return load_minionerec(directory) if is_minionerec else RecommendationDataset.load(directory)
