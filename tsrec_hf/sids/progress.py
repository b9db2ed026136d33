"""Progress bars of long stages, which only the first of several processes shows."""

import os
from typing import Any

from tqdm.auto import tqdm


def progress_bar(*args: Any, **kwargs: Any) -> tqdm:
    """
    A bar of tqdm. Not transformers' own, which commands turn off with the bars of its loading and saving.

    Example:

    ```python
    >>> from tsrec_hf.sids.progress import progress_bar

    >>> with progress_bar(total=8, desc="Embedding", disable=True) as bar:
    ...     _ = bar.update(8)
    ```
    """
    kwargs.setdefault("disable", os.environ.get("RANK", "0") != "0")
    return tqdm(*args, **kwargs)
