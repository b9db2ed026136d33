"""Describe SID tokens: collect the items of each token and ask a teacher for their meaning (TS-Rec's teacher step)."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.checking_tsrec import checks_types

from .keyword_teacher import KeywordTeacher
from .sampling import rank_by_typicality
from .token_semantics import TokenDescription, TokenSemantics


logger = logging.getLogger(__name__)

Item = Mapping[str, Any]


class Teacher(Protocol):
    """Protocol of a teacher for [`describe_tokens`]: one call per level, so that it can contrast sibling tokens."""

    def describe(self, clusters: Mapping[str, Sequence[Item]]) -> Mapping[str, TokenDescription]:
        """
        Returns one description per token. `clusters` maps each token of a level to the items that carry it, at least
        one; with embeddings, the most representative items come first.
        """


@checks_types
def describe_tokens(
    items: Iterable[Item],
    sid_index: SIDIndex,
    teacher: Teacher = KeywordTeacher(),
    embeddings: np.ndarray | None = None,
    earlier: TokenSemantics | None = None,
) -> TokenSemantics:
    r"""
    Describes every SID token that at least one item carries.

    Args:
        items (`datasets.Dataset` or iterable of `dict`):
            Rows with `item_id`, `title` and, for most teachers, `description`. Rows outside the index are ignored.
        sid_index ([`SIDIndex`]):
            Index that maps items to tokens.
        teacher (*optional*, defaults to `KeywordTeacher()`):
            Object with a method `describe(clusters) -> dict[token, TokenDescription]`, called once per level:
            [`KeywordTeacher`], [`TransformersTeacher`], [`InferenceClientTeacher`] or your own.
        embeddings (`np.ndarray` of shape `(items, dim)`, *optional*):
            Embeddings of the items in the order of `sid_index.item_ids`, such as those that the SIDs were built from.
            Teachers that sample items then get representative and diverse items of each cluster first; without
            embeddings they get the first items in the order of the index.
        earlier ([`TokenSemantics`], *optional*):
            Descriptions of the tokens of an index that this one grew out of. They stay as they are, also those of
            tokens that no item carries any more, and only tokens without one are described.

    Returns:
        [`TokenSemantics`]: One entry per token with at least one item or an earlier description, level by level, with
        the fingerprint of the index.

    Raises:
        `ValueError`: items of the index without a row, another number of embeddings than of items, earlier
        descriptions of another index.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.models import SIDIndex
    >>> from tsrec_hf.semantics import describe_tokens

    >>> items = [
    ...     {"item_id": "1", "title": "Cobalt drill"},
    ...     {"item_id": "2", "title": "Titanium drill"},
    ...     {"item_id": "3", "title": "Latex glove"},
    ... ]
    >>> codes = np.array([[0, 0], [0, 1], [1, 0]], dtype=np.int32)
    >>> semantics = describe_tokens(items, SIDIndex(["1", "2", "3"], codes))
    >>> semantics["<a_0>"].keywords
    ['drill', 'cobalt', 'titanium']
    >>> semantics["<a_1>"].description
    'Items about glove and latex. For example: Latex glove.'
    ```
    """
    rows = {row["item_id"]: row for row in items}
    missing = [item_id for item_id in sid_index.item_ids if item_id not in rows]
    if missing:
        raise ValueError(
            f"Expected a row for each of the {len(sid_index.item_ids)} items of the SID index, found none for "
            f"{len(missing)} of them, first {missing[0]!r}. Pass the catalogue that the index was built from."
        )
    if embeddings is not None and len(embeddings) != len(sid_index.item_ids):
        raise ValueError(
            f"Expected one embedding for each of the {len(sid_index.item_ids)} items of the SID index, in its order, "
            f"found {len(embeddings)}."
        )
    known: Mapping[str, TokenDescription] = {} if earlier is None else earlier
    if earlier is not None:
        _check_earlier(earlier, sid_index)
    entries: list[TokenDescription] = []
    for level, tokens in enumerate(sid_index.tokens):
        codes = np.asarray(sid_index.codes[:, level])
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        positions_of = np.split(order, starts[1:])
        if embeddings is not None:
            positions_of = [positions[rank_by_typicality(embeddings[positions])] for positions in positions_of]
        clusters = {
            tokens[code]: [rows[sid_index.item_ids[position]] for position in positions]
            for code, positions in zip(present, positions_of, strict=True)
        }
        new = [token for token in clusters if token not in known]
        # `KeywordTeacher` compares a token with all its siblings, which costs nothing; others are asked of few.
        asked = clusters if isinstance(teacher, KeywordTeacher) else {token: clusters[token] for token in new}
        described = teacher.describe(asked) if new else {}
        either = {**described, **known}
        entries.extend(either[token] for token in tokens if token in either)
        logger.info(
            "Level %d: described %d tokens, %d were known, %d carry no item.",
            level,
            len(new),
            sum(token in known for token in tokens),
            len(tokens) - len(present),
        )
    return TokenSemantics(entries, sid_index.fingerprint)


def _check_earlier(earlier: TokenSemantics, sid_index: SIDIndex) -> None:
    if earlier.fingerprint is not None:
        earlier.check_index(sid_index)
    strange = set(earlier).difference(*sid_index.tokens)
    if strange:
        raise ValueError(
            f"Expected earlier descriptions of the index's own tokens, but it lacks {len(strange)} of {len(earlier)}, "
            f"such as {min(strange)!r}. Describe the tokens of this index anew, without `earlier`."
        )
