"""Opens a folder whose items have semantic IDs, as training and searching need it."""

from pathlib import Path

from tsrec_hf.items import RecommendationDataset, open_dataset
from tsrec_hf.models import SIDIndex


def open_indexed(folder: str | Path) -> tuple[RecommendationDataset, SIDIndex]:
    """
    Opens a prepared data set, and returns its index beside it.

    Raises:
        `ValueError`: a data set without semantic IDs.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf.recipes.indexed import open_indexed

    >>> opened, index = open_indexed(dataset.save(tempfile.mkdtemp()))
    >>> index == dataset.sid_index
    True
    ```
    """
    dataset = open_dataset(folder)
    if dataset.sid_index is None:
        raise ValueError(
            f"Expected a data set with semantic IDs in {str(folder)!r}, but its items have none. Make them by "
            "`tsrec build`, or open a folder that it wrote."
        )
    return dataset, dataset.sid_index
