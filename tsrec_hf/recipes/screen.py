"""What a command shows: a header, a bar a stage, a table and a path. What libraries say of themselves stays away."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


# Whose remarks on what will be deprecated are for programmers.
LIBRARIES = r"(transformers|trl|peft|accelerate|datasets|torch|sentence_transformers)(\.|$)"
# These warn of what they do without.
ERRORS_ONLY = ("bitsandbytes", "faiss.loader")


@contextmanager
def quiet(told: int = logging.INFO) -> Iterator[None]:
    """
    Keeps other libraries' bars and remarks off the screen, and the package's own below a level; undone at the end.

    Args:
        told (`int`, *optional*, defaults to `logging.INFO`):
            Least level of what the package logs: `logging.WARNING` where a recipe prints its stages itself.

    Example:

    ```python
    >>> import datasets
    >>> from tsrec_hf.recipes.screen import quiet

    >>> with quiet():
    ...     datasets.is_progress_bar_enabled()
    False
    ```
    """
    import datasets
    from transformers.utils import logging as transformers_logging

    levels = {"tsrec_hf": told if is_first_process() else logging.ERROR, **dict.fromkeys(ERRORS_ONLY, logging.ERROR)}
    before = {name: logging.getLogger(name).level for name in levels}
    verbosity, with_bars = transformers_logging.get_verbosity(), datasets.is_progress_bar_enabled()
    their_bars = transformers_logging.is_progress_bar_enabled()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            for kind in (FutureWarning, DeprecationWarning):
                warnings.filterwarnings("ignore", category=kind, module=LIBRARIES)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if with_bars:
            datasets.enable_progress_bars()
        if their_bars:
            transformers_logging.enable_progress_bar()


def set_up_logging() -> None:
    """The first of several processes tells what goes on; the others tell of errors."""
    logging.basicConfig(level=logging.WARNING if is_first_process() else logging.ERROR, format="%(message)s")


def is_first_process() -> bool:
    """Whether this is the first of several processes, or the only one, as launchers say it."""
    return os.environ.get("RANK", "0") == "0"
