import numpy as np
import pytest
import torch

from tsrec_hf.sids.balancing import balance, squared_distances


def test_squared_distances_by_hand() -> None:
    points, centroids = torch.tensor([[0.0, 0.0], [0.5, 0.25]]), torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    # All of them are below 1, as those of unit vectors that are alike: 0.5^2 + 0.25^2 = 0.3125, 0.25^2 = 0.0625.
    assert squared_distances(points, centroids).tolist() == [[0.0, 0.25], [0.3125, 0.0625]]


def test_rounding_makes_no_distance_negative() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(loc=100, size=(50, 64)).astype(np.float32))
    unclamped = points.square().sum(dim=1)[:, None] + points.square().sum(dim=1) - 2 * points @ points.T
    assert unclamped.min() < 0
    assert squared_distances(points, points).min() == 0


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_the_scale_of_the_points_does_not_matter(scale: float) -> None:
    # 300 points in one cluster and 20 in each of three. Powers of two keep all digits: centroids scale exactly,
    # penalties, which are squared distances, by the square.
    rng = np.random.default_rng(0)
    centers = rng.normal(scale=3, size=(4, 5))
    points = (np.repeat(centers, [300, 20, 20, 20], axis=0) + rng.normal(size=(360, 5))).astype(np.float32)
    start = centers.astype(np.float32)
    centroids, penalties = balance(points, start)
    sizes = np.bincount((np.square(points[:, None] - centroids).sum(axis=-1) + penalties).argmin(axis=1))
    assert 80 <= sizes.min() and sizes.max() <= 100, sizes  # 90 would be even
    scaled_centroids, scaled_penalties = balance(points * np.float32(scale), start * np.float32(scale))
    np.testing.assert_allclose(scaled_centroids, centroids * scale, rtol=1e-4)
    np.testing.assert_allclose(scaled_penalties, penalties * scale**2, rtol=1e-3, atol=1e-4 * scale**2)


def test_points_on_their_centroids_need_no_penalties() -> None:
    centroids, penalties = balance(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))
    assert (centroids == np.eye(3)).all() and (penalties == 0).all()
