"""
Per-centroid penalties that balance cluster sizes.

Dividing items among centroids of equal capacity at the least total squared distance is an optimal transport problem.
Its dual solution is one number a centroid, a penalty: once it is added to the squared distances, every item's own
nearest centroid is the optimal choice. Items need not be assigned jointly then, so an item is coded without a look at
the others, and clusters stay balanced for new items from the same distribution.
"""

import math

import numpy as np
import torch


NUM_ROUNDS = 15
# Sinkhorn steps a round; it ends early once the logarithm of every cluster's size is within `TOLERANCE` of its target.
MAX_STEPS, TOLERANCE = 200, 0.05
# Temperature of the soft assignment in the last round, relative to the mean squared distance to the nearest centroid.
HARDEST = 0.03
# Points a centroid that the penalties are learned from. With fewer, sampling noise decides the cluster sizes.
POINTS_A_CENTROID = 128


def balance(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""
    Learn penalties under which every centroid is nearest to about as many points, and move the centroids accordingly.

    Sinkhorn's iteration with an annealed temperature: every step raises the penalty of centroids that have too many
    points and lowers that of the others. Under a high temperature points are shared among centroids, so that sizes
    change smoothly with the penalties and the steps converge; hard assignment, where a small step moves a whole
    cluster at once, would oscillate. The temperature then falls until the assignment is as good as hard, because hard
    is how items are coded. Between rounds the centroids move to the means of their points, as in k-means, because a
    balanced cluster has another mean. Deterministic.

    Args:
        points (`np.ndarray` of shape `(points, dim)`):
            Vectors to divide, float32.
        centroids (`np.ndarray` of shape `(centroids, dim)`):
            Initial centroids, float32.

    Returns:
        `tuple` of two `np.ndarray`: centroids of shape `(centroids, dim)` and penalties of shape `(centroids,)`,
        float32, the least penalty 0.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids.balancing import balance

    >>> points = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [20.0]], dtype=np.float32)
    >>> centroids, penalties = balance(points, np.array([[2.0], [20.0]], dtype=np.float32))  # five points and one
    >>> np.bincount((np.square(points - centroids.T) + penalties).argmin(axis=1)).tolist()
    [3, 3]
    ```
    """
    stride = max(1, len(points) // (POINTS_A_CENTROID * len(centroids)))
    sample, moving = torch.from_numpy(points[::stride]), torch.from_numpy(centroids)
    penalties = torch.zeros(len(moving))
    target = math.log(len(sample) / len(moving))
    distances = squared_distances(sample, moving)
    softest, hardest = float(distances.mean()), HARDEST * float(distances.min(dim=1).values.mean())
    if hardest == 0:  # every point lies on a centroid: any other assignment is worse
        return centroids, penalties.numpy()
    for temperature in np.geomspace(softest, hardest, NUM_ROUNDS).tolist():
        distances = squared_distances(sample, moving)
        for _ in range(MAX_STEPS):
            sizes = torch.softmax((distances + penalties) / -temperature, dim=1).sum(dim=0)  # (centroids,)
            # In logarithms, since a penalty of `temperature * x` scales a soft cluster by `exp(-x)`.
            excess = sizes.clamp_min(1e-9).log() - target
            if float(excess.abs().max()) < TOLERANCE:
                break
            penalties = penalties + temperature * excess
        # Penalties fit the centroids that they were learned with: after the last round these are returned, not the
        # means below.
        balanced = moving
        chosen = (distances + penalties).argmin(dim=1)
        counts = torch.bincount(chosen, minlength=len(moving))[:, None]
        sums = torch.zeros_like(moving).index_add_(0, chosen, sample)
        moving = torch.where(counts > 0, sums / counts.clamp_min(1), moving)
    return balanced.numpy(), (penalties - penalties.min()).numpy()  # a constant changes no choice; `sqrt` needs >= 0


def squared_distances(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Squared distances of shape `(points, centroids)`, never negative although rounding could make them so."""
    squares = points.square().sum(dim=1)[:, None] + centroids.square().sum(dim=1)
    return squares.addmm_(points, centroids.T, alpha=-2).clamp_min_(0)
