"""K-core filter: drop rare users and items until none is left."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from tsrec_hf.models.checking_tsrec import checks_types

from .log import InteractionLog
from .tidying import check_something_left


@checks_types
def k_core(log: InteractionLog, user_k: int = 5, item_k: int = 5) -> InteractionLog:
    r"""
    Keeps the users with at least `user_k` interactions and the items with at least `item_k`.

    Dropping rare items makes some users rare and vice versa, so the filter is repeated until nothing changes. The
    result is the largest log in which all users and items are frequent enough, and does not depend on the order of
    dropping. Interactions are counted, including repeated ones; use `tidy(log, repeats="first")` before to count
    distinct items.

    Args:
        log ([`InteractionLog`]):
            The log.
        user_k (`int`, *optional*, defaults to `5`):
            Minimum number of interactions of a user; `1` keeps all.
        item_k (`int`, *optional*, defaults to `5`):
            Minimum number of interactions of an item; `1` drops only items without interactions, `0` keeps these too.

    Returns:
        [`InteractionLog`]: The remaining items and interactions, in their order.

    Raises:
        `ValueError`: no item or interaction is left.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.items import InteractionLog, k_core

    >>> items = {"item_id": ["1", "2", "3"], "title": ["Nut", "Bolt", "Saw"], "description": ["", "", ""]}
    >>> interactions = Dataset.from_dict(
    ...     {
    ...         "user_id": ["ann", "ann", "bob", "bob", "cid", "cid"],
    ...         "item_id": ["1", "2", "1", "2", "2", "3"],
    ...         "timestamp": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    ...     }
    ... )
    >>> log = InteractionLog(Dataset.from_dict(items), interactions)
    >>> k_core(log, user_k=2, item_k=2)  # the saw goes, and with it cid
    InteractionLog(items=2, users=2, interactions=4)
    ```
    """
    for name, k in (("user_k", user_k), ("item_k", item_k)):
        if k < 0:
            raise ValueError(f"Expected `{name}` of at least 0, but found {k}. Pass 0 or 1 to keep all.")
    items, interactions = log.tables()
    users = interactions["user_id"].dictionary_encode().combine_chunks().indices.to_numpy()
    taken = pc.index_in(interactions["item_id"], value_set=items["item_id"].combine_chunks())
    if taken.null_count:
        raise ValueError(
            f"Expected every item of the interactions in `items`, but {taken.null_count} interactions name another. "
            "Use `tidy(log)` first, which drops them."
        )
    taken = taken.to_numpy()

    rows = np.arange(len(interactions))
    while True:
        per_user, per_item = np.bincount(users[rows]), np.bincount(taken[rows], minlength=len(items))
        frequent = (per_user[users[rows]] >= user_k) & (per_item[taken[rows]] >= item_k)
        if frequent.all():
            break
        rows = rows[frequent]
    items, interactions = items.filter(pa.array(per_item >= item_k)), interactions.take(pa.array(rows))
    summary = log.summary.add(f"k-core ({user_k} a user, {item_k} an item)", items, interactions)
    check_something_left(items, interactions, summary)
    return InteractionLog(Dataset(items), Dataset(interactions), summary)
