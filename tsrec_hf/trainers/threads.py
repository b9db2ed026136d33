"""As many threads as are worth it: on a shared machine threads wait for each other, and fewer finish first."""

import time
from collections.abc import Callable

import torch

from tsrec_hf.models.checking_tsrec import checks_types


@checks_types
def choose_num_threads(work: Callable[[], object]) -> float:
    r"""
    Sets `torch.set_num_threads` to the number with which some work is done first: the present one, or a half, a
    quarter, ... of it.

    PyTorch takes one thread for every core. An operation ends with its slowest thread, so that where another job keeps
    a core, two threads take longer than one.

    Args:
        work (`Callable[[], object]`):
            A second or two of what is to follow, such as a search for some users. It is called once to warm up and
            once for each number.

    Returns:
        `float`: Seconds that the work took with the number chosen.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf.trainers import choose_num_threads

    >>> before = torch.get_num_threads()
    >>> seconds = choose_num_threads(lambda: model.recommend(tokenizer, [["apple"]], top_k=2))
    >>> 1 <= torch.get_num_threads() <= before
    True
    >>> torch.set_num_threads(before)
    ```
    """
    work()
    found: dict[int, float] = {}
    number = torch.get_num_threads()
    while number >= 1:
        torch.set_num_threads(number)
        start = time.monotonic()
        work()
        found[number] = time.monotonic() - start
        number //= 2
    best = min(found, key=lambda number: found[number])
    torch.set_num_threads(best)
    return found[best]
