"""Quality of semantic IDs: collisions, use of codes, reconstruction error, similarity and transitions in prefixes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsrec_hf.models.checking_tsrec import checks_types

from .checks import as_matrix
from .distinctness import warn_of_equal_vectors
from .quantizer import Quantizer
from .transitions import item_transitions, next_prefix_hits


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# Share of a level's codes below which its perplexity is warned of.
LEAST_PERPLEXITY = 0.25
NUM_NEIGHBORS = 10


@dataclass(frozen=True)
class SIDReport:
    r"""
    Quality figures of semantic IDs, from [`sid_report`]; `print` shows them as a table.

    Args:
        num_items (`int`):
            Number of items.
        num_sids (`int`):
            Number of different SIDs.
        largest_group (`int`):
            Number of items with the most frequent SID.
        level_sizes (`list[int]`):
            Number of codes at each level.
        use (`list[float]`):
            Share of each level's codes that at least one item has.
        perplexity (`list[float]`):
            `exp(entropy)` of each level's codes: the number of equally frequent codes with that entropy.
        reconstruction_error (`list[float]` or `None`):
            Share of the embeddings' variance that the first 1, 2, ... codes leave unexplained; `None` without a
            quantiser.
        prefix_cosine (`list[float]`):
            Mean cosine of two items' embeddings that share their first 1, 2, ... codes; NaN if no two items do.
        random_cosine (`float`):
            Mean cosine of two random items, the baseline of `prefix_cosine`.
        neighbor_overlap (`list[float]`):
            Share of an item's 10 nearest neighbours that share its first 1, 2, ... codes.
        random_overlap (`list[float]`):
            Share of all other items that do, the baseline of `neighbor_overlap`.
        entropy (`list[float]`):
            Entropy of each level's codes relative to its maximum: 1 if all are equally frequent.
        gini (`list[float]`):
            Gini coefficient of each level's code frequencies: 0 if all are equal, near 1 if one code has all items.
        equal_vectors (`float`):
            Share of items whose embedding nearly equals that of another one, with a different text where texts were
            given.
        collision_rate_before (`float` or `None`):
            Collision rate of the quantiser's own codes, before [`resolve_collisions`]; `None` without a quantiser.
        next_prefix_hits (`list[float]` or `None`):
            Share of held-out transitions whose next item has one of the 10 most frequent next prefixes of 1, 2, ...
            codes; `None` without interactions.
        shuffled_prefix_hits (`list[float]` or `None`):
            The same with the SIDs permuted among the items, the baseline of `next_prefix_hits`.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import sid_report

    >>> report = sid_report(np.array([[0, 0], [0, 1], [1, 0], [1, 0]]), np.array([[1, 0], [1, 0.1], [0, 1], [0, 1]]))
    >>> report.collision_rate
    0.25
    >>> print(report)
    4 items, 3 SIDs, collision rate 25.00%, at most 2 items a SID; cosine of any two items 0.366
    | level | codes | used | perplexity | entropy | Gini | error left | cosine in prefix | neighbours | by chance |
    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
    | 1 | 2 | 100.0% | 2.0 | 100.0% | 0.00 | - | 0.998 | 33.3% | 33.3% |
    | 2 | 2 | 100.0% | 1.8 | 81.1% | 0.25 | - | 1.000 | 16.7% | 16.7% |
    ```
    """

    num_items: int
    num_sids: int
    largest_group: int
    level_sizes: list[int]
    use: list[float]
    perplexity: list[float]
    reconstruction_error: list[float] | None
    prefix_cosine: list[float]
    random_cosine: float
    neighbor_overlap: list[float]
    random_overlap: list[float]
    entropy: list[float]
    gini: list[float]
    equal_vectors: float
    collision_rate_before: float | None = None
    next_prefix_hits: list[float] | None = None
    shuffled_prefix_hits: list[float] | None = None

    @property
    def collision_rate(self) -> float:
        """Share of items beyond the first of each SID: `1 - num_sids / num_items`."""
        return 1 - self.num_sids / self.num_items

    def to_dict(self) -> dict:
        """Convert to a dictionary for JSON, collision rate included."""
        return asdict(self) | {"collision_rate": self.collision_rate}

    def __str__(self) -> str:
        header = ["level", "codes", "used", "perplexity", "entropy", "Gini", "error left", "cosine in prefix"]
        header += ["neighbours", "by chance"]
        if self.next_prefix_hits is not None:
            header += ["next item's prefix", "shuffled"]
        errors = self.reconstruction_error or []
        lines = []
        if self.collision_rate_before is not None:
            lines.append(f"Collision rate before reassignment: {self.collision_rate_before:.2%}")
        lines += [
            f"{self.num_items} items, {self.num_sids} SIDs, collision rate {self.collision_rate:.2%}, at most "
            f"{self.largest_group} items a SID; cosine of any two items {self.random_cosine:.3f}",
            f"| {' | '.join(header)} |",
            "|" + " --- |" * len(header),
        ]
        for level, size in enumerate(self.level_sizes):
            cells = [
                f"{level + 1}",
                f"{size}",
                f"{self.use[level]:.1%}",
                f"{self.perplexity[level]:.1f}",
                f"{self.entropy[level]:.1%}",
                f"{self.gini[level]:.2f}",
                f"{errors[level]:.3f}" if level < len(errors) else "-",
                "-" if np.isnan(self.prefix_cosine[level]) else f"{self.prefix_cosine[level]:.3f}",
                f"{self.neighbor_overlap[level]:.1%}",
                f"{self.random_overlap[level]:.1%}",
            ]
            if self.next_prefix_hits is not None and self.shuffled_prefix_hits is not None:
                cells += [f"{self.next_prefix_hits[level]:.1%}", f"{self.shuffled_prefix_hits[level]:.1%}"]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def plot(self, path: str | Path) -> None:
        """Plot use and perplexity, error, cosines and neighbours to an image file. Needs matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "`SIDReport.plot` needs matplotlib, which is not installed. Install it with `pip install "
                '".[plots]"` in a clone of the repository.'
            ) from error
        levels = np.arange(1, len(self.level_sizes) + 1)
        figure = Figure(figsize=(13, 3.2), layout="constrained")
        use, unexplained, cosine, overlap = figure.subplots(1, 4)
        relative = np.array(self.perplexity) / np.array(self.level_sizes)
        use.bar(levels - 0.2, self.use, 0.4, label="used")
        use.bar(levels + 0.2, relative, 0.4, label="perplexity / codes")
        use.set(title="Use of the codes", ylim=(0, 1.3), yticks=np.linspace(0, 1, 6))  # the legend stands above 1
        if self.reconstruction_error is not None:
            unexplained.plot(levels[: len(self.reconstruction_error)], self.reconstruction_error, "o-")
        unexplained.set(title="Unexplained variance", ylim=(0, None))
        cosine.plot(levels, self.prefix_cosine, "o-", label="common prefix")
        cosine.axhline(self.random_cosine, color="grey", linestyle="--", label="any two items")
        cosine.set(title="Mean cosine", ylim=(None, 1))
        overlap.plot(levels, self.neighbor_overlap, "o-", label="nearest 10")
        overlap.plot(levels, self.random_overlap, "--", color="grey", label="by chance")
        overlap.set(title="Share with a common prefix", ylim=(0, 1))
        for axes in (use, unexplained, cosine, overlap):
            axes.set(xlabel="level", xticks=levels)
        for axes in (use, cosine, overlap):
            axes.legend(fontsize="small")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


@checks_types
def sid_report(
    codes: np.ndarray,
    embeddings: np.ndarray,
    quantizer: Quantizer | None = None,
    num_queries: int = 1000,
    seed: int = 0,
    texts: Sequence[str] | None = None,
    interactions: Dataset | Sequence[Mapping[str, Any]] | None = None,
    held_out: Dataset | Sequence[Mapping[str, Any]] | None = None,
    item_ids: Sequence[str] | None = None,
) -> SIDReport:
    r"""
    Measure the quality of semantic IDs against the embeddings that they were made from, and against what users took.

    Warns of a level whose perplexity is below a quarter of its codes, and of embeddings that are nearly equal.

    Args:
        codes (`np.ndarray` of shape `(items, levels)`):
            Codes, before or after [`resolve_collisions`].
        embeddings (`np.ndarray` of shape `(items, dim)`):
            The items' embeddings.
        quantizer ([`Quantizer`], *optional*):
            The quantiser that made the codes. It gives the level sizes (otherwise the highest code does) and the
            reconstruction error.
        num_queries (`int`, *optional*, defaults to `1000`):
            Number of items whose nearest neighbours are computed, sampled if there are more.
        seed (`int`, *optional*, defaults to `0`):
            Seed of that sample and of the permutation.
        texts (`Sequence[str]`, *optional*):
            The items' texts: equal embeddings of equal texts are then no cause for a warning.
        interactions (`datasets.Dataset` or a sequence of dicts, *optional*):
            Rows with `history` and `target`, which successors are counted from; `held_out` and `item_ids` go with it.
        held_out (`datasets.Dataset` or a sequence of dicts, *optional*):
            Other rows, such as the validation split, whose next items are predicted.
        item_ids (`Sequence[str]`, *optional*):
            Item ids in the order of `codes`.

    Returns:
        [`SIDReport`]: The figures.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import ResidualKMeans, sid_report

    >>> embeddings = np.array([[-1.0], [1.0], [99.0], [101.0]])
    >>> quantizer = ResidualKMeans([2, 2]).fit(embeddings)
    >>> report = sid_report(quantizer.encode(embeddings), embeddings, quantizer)
    >>> [round(error, 4) for error in report.reconstruction_error], report.collision_rate
    ([0.0004, 0.0], 0.0)
    ```
    """
    codes, embeddings = np.asarray(codes), as_matrix(embeddings)
    if codes.ndim != 2 or len(codes) != len(embeddings) or len(codes) < 2:
        raise ValueError(
            f"Expected codes of at least two items, a row an embedding, found codes of shape {codes.shape} and "
            f"embeddings of shape {embeddings.shape}. Pass both in the order of the items."
        )
    num_items, num_levels = codes.shape
    if not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0:
        raise ValueError(
            f"Expected codes as integers from 0 on, found dtype `{codes.dtype}` and {codes.min()} as the least. Pass "
            "what `encode` or `resolve_collisions` returned."
        )
    transitions = None
    if interactions is not None:
        if held_out is None or item_ids is None or len(item_ids) != num_items:
            raise ValueError(
                f"Expected `held_out` interactions and {num_items} `item_ids` beside `interactions`, found "
                f"{'no' if held_out is None else 'some'} `held_out` and "
                f"{'no' if item_ids is None else len(item_ids)} `item_ids`. Pass the validation split, and the ids in "
                "the order of the codes."
            )
        transitions = item_transitions(interactions, item_ids), item_transitions(held_out, item_ids)
    level_sizes = (codes.max(axis=0) + 1).tolist()
    if quantizer is not None:
        level_sizes[: len(quantizer.level_sizes)] = quantizer.level_sizes
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    counts = [np.bincount(codes[:, level], minlength=size) for level, size in enumerate(level_sizes)]
    groups = [_groups_of_prefix(codes, depth) for depth in range(1, num_levels + 1)]
    sizes = [np.bincount(group) for group in groups]
    neighbors, queries = _nearest_neighbors(units, num_queries, seed)
    perplexity = [_perplexity(count / num_items) for count in counts]
    _warn_of_unused_codes(perplexity, level_sizes, num_items)
    hits = shuffled = None
    if transitions is not None:
        order = np.random.default_rng(seed).permutation(num_items)
        hits = [next_prefix_hits(group, *transitions) for group in groups]
        shuffled = [next_prefix_hits(group[order], *transitions) for group in groups]
    return SIDReport(
        num_items=num_items,
        num_sids=len(sizes[-1]),
        largest_group=int(sizes[-1].max()),
        level_sizes=level_sizes,
        use=[float((count > 0).mean()) for count in counts],
        perplexity=perplexity,
        reconstruction_error=None if quantizer is None else _errors(codes, embeddings, quantizer),
        prefix_cosine=[_mean_cosine(units, group) for group in groups],
        random_cosine=_mean_cosine(units, np.zeros(num_items, dtype=int)),
        neighbor_overlap=[float((group[neighbors] == group[queries][:, None]).mean()) for group in groups],
        random_overlap=[float((size * (size - 1.0)).sum() / (num_items * (num_items - 1.0))) for size in sizes],
        entropy=[float(np.log(one) / np.log(size)) if size > 1 else 1.0 for one, size in zip(perplexity, level_sizes)],
        gini=[_gini(count) for count in counts],
        equal_vectors=warn_of_equal_vectors(embeddings, texts),
        collision_rate_before=None if quantizer is None else _collision_rate(quantizer.encode(embeddings)),
        next_prefix_hits=hits,
        shuffled_prefix_hits=shuffled,
    )


def _collision_rate(codes: np.ndarray) -> float:
    return 1 - len(np.unique(codes, axis=0)) / len(codes)


def _warn_of_unused_codes(perplexity: Sequence[float], level_sizes: Sequence[int], num_items: int) -> None:
    # No more codes can be in use than there are items.
    low = [
        f"level {level}: {one:.1f} of {size}"
        for level, (one, size) in enumerate(zip(perplexity, level_sizes), start=1)
        if one < LEAST_PERPLEXITY * min(size, num_items)
    ]
    if low:
        logger.warning(
            "Codes are used unevenly (%s): the SIDs of most items begin or go on alike, and are hard to learn. Use "
            "`ResidualKMeans(balanced=True)`, its default, or fewer codes (`propose_level_sizes` proposes how many).",
            "; ".join(low),
        )


def _gini(counts: np.ndarray) -> float:
    """Gini coefficient of the counts: the mean difference of two of them, relative to twice their mean."""
    ranked = np.sort(counts).astype(np.float64)
    weights = 2 * np.arange(1, len(ranked) + 1) - len(ranked) - 1
    return float((weights * ranked).sum() / (len(ranked) * ranked.sum()))


def _groups_of_prefix(codes: np.ndarray, depth: int) -> np.ndarray:
    """Number the prefixes of `depth` codes: of each item the number of its prefix."""
    return np.unique(codes[:, :depth], axis=0, return_inverse=True)[1].reshape(-1)


def _perplexity(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _errors(codes: np.ndarray, embeddings: np.ndarray, quantizer: Quantizer) -> list[float]:
    """Squared error of decoding the first 1, 2, ... codes, relative to that of the mean embedding."""
    variance = np.square(embeddings - embeddings.mean(axis=0)).sum()
    depths = range(1, len(quantizer.level_sizes) + 1)
    errors = [np.square(embeddings - quantizer.decode(codes[:, :depth])).sum() for depth in depths]
    return [float(error / np.maximum(variance, 1e-12)) for error in errors]


def _mean_cosine(units: np.ndarray, group: np.ndarray) -> float:
    """Mean cosine over all pairs of items of one group; NaN if there is no pair."""
    # Linear instead of quadratic in the items: the squared norm of a group's sum is the sum of all its inner products,
    # each pair's twice and each item's with itself once.
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sums = np.add.reduceat(units[order], starts, axis=0, dtype=np.float64)
    sizes = np.bincount(group).astype(np.float64)
    pairs = (sizes * (sizes - 1)).sum()
    return float((np.square(sums).sum() - np.square(units, dtype=np.float64).sum()) / pairs) if pairs else float("nan")


def _nearest_neighbors(units: np.ndarray, num_queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest items of sampled items, themselves excluded: `(queries, neighbours)`, and the sampled items."""
    queries = np.arange(len(units))
    if len(units) > num_queries:
        queries = np.sort(np.random.default_rng(seed).choice(len(units), num_queries, replace=False))
    number = min(NUM_NEIGHBORS, len(units) - 1)
    neighbors = np.empty((len(queries), number), dtype=int)
    for start in range(0, len(queries), 100):
        rows = queries[start : start + 100]
        cosines = units[rows] @ units.T  # (rows, items)
        cosines[np.arange(len(rows)), rows] = -np.inf
        neighbors[start : start + 100] = np.argpartition(-cosines, number - 1, axis=1)[:, :number]
    return neighbors, queries
