"""
Prices that make all centroids be taken about equally often.

Dividing items among centroids of equal capacity at the least total squared distance is an optimal transport problem.
Its dual solution is one number a centroid: added to the squared distances, it makes the least sum the right choice for
every item by itself. So balance needs no look at the other items, and holds for new ones of the same kind.
"""

import math

import numpy as np
import torch


NUM_ROUNDS = 15
# Sinkhorn's steps a round, fewer where every share is within `TOLERANCE` (a logarithm) of its target before.
MAX_STEPS, TOLERANCE = 200, 0.05
# Softness of the choice in the last round, as a share of the mean squared distance to the nearest centroid.
HARDEST = 0.03
# Points that the prices are learned from. With fewer, chance decides how many there are of a kind.
POINTS_A_CENTROID = 128


def balance(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""
    Prices under which every centroid is the best choice of about as many points, and centroids moved accordingly.

    Sinkhorn's iteration, with a choice that hardens from round to round; between rounds the centroids move to the
    means of their points. Deterministic.

    Args:
        points (`np.ndarray` of shape `(points, dim)`):
            What is divided, float32.
        centroids (`np.ndarray` of shape `(centroids, dim)`):
            Where to begin, float32.

    Returns:
        `tuple` of two `np.ndarray`: centroids of shape `(centroids, dim)` and prices of shape `(centroids,)`, float32,
        the least price 0.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids.balancing import balance

    >>> points = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [20.0]], dtype=np.float32)
    >>> centroids, prices = balance(points, np.array([[2.0], [20.0]], dtype=np.float32))  # five points and one
    >>> np.bincount((np.square(points - centroids.T) + prices).argmin(axis=1)).tolist()
    [3, 3]
    ```
    """
    stride = max(1, len(points) // (POINTS_A_CENTROID * len(centroids)))
    points, centroids = torch.from_numpy(points[::stride]), torch.from_numpy(centroids)
    prices = torch.zeros(len(centroids))
    target = math.log(len(points) / len(centroids))
    distances = _squared_distances(points, centroids)
    softest, hardest = float(distances.mean()), HARDEST * float(distances.min(dim=1).values.mean())
    if hardest == 0:  # every point lies on a centroid: there is no other choice
        return centroids.numpy(), prices.numpy()
    for softness in np.geomspace(softest, hardest, NUM_ROUNDS).tolist():
        distances = _squared_distances(points, centroids)
        for _ in range(MAX_STEPS):
            shares = torch.softmax((distances + prices) / -softness, dim=1).sum(dim=0)  # (centroids,)
            excess = shares.clamp_min(1e-9).log() - target
            if float(excess.abs().max()) < TOLERANCE:
                break
            prices = prices + softness * excess
        priced = centroids
        chosen = (distances + prices).argmin(dim=1)
        counts = torch.bincount(chosen, minlength=len(centroids))[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, chosen, points)
        centroids = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
    return priced.numpy(), (prices - prices.min()).numpy()


def _squared_distances(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    squares = points.square().sum(dim=1)[:, None] + centroids.square().sum(dim=1)
    return squares.addmm_(points, centroids.T, alpha=-2).clamp_min_(0)
