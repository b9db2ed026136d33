import numpy as np
import pytest

from tsrec_hf.sids import RQVAE, ResidualKMeans, resolve_collisions


class Line:
    """Three levels of codes on a line: an item at 42.3 has the codes 4, 2 and 3 where each level has ten codes."""

    def __init__(self, level_sizes) -> None:
        self.level_sizes = list(level_sizes)

    def distances(self, embeddings: np.ndarray, codes: np.ndarray) -> np.ndarray:
        level = codes.shape[1]
        weights = 10.0 ** (1 - np.arange(3))
        left_over = embeddings[:, 0] - codes @ weights[:level]
        return np.abs(left_over[:, None] - weights[level] * np.arange(self.level_sizes[level]))

    def misfit(self, embeddings: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return self.distances(embeddings, codes[:, :-1])[np.arange(len(codes)), codes[:, -1]]


def encode(points: np.ndarray) -> np.ndarray:
    return np.stack([points // 10, points % 10 // 1, points * 10 % 10 // 1], axis=1)[:, :, 0].astype(int)


def test_reassign_worked_by_hand() -> None:
    # 11.20, 11.24 and 11.22 share the codes 1, 1, 2. The first suits them best and stays. The next best is 11.22: of
    # the free codes 1 and 3 (both taken? 11.3 is there) it takes 1; 11.24 then finds 1, 2, 3 taken and takes 4.
    points = np.array([[11.24], [11.20], [11.22], [11.30], [52.00]])
    codes = np.array([[1, 1, 2], [1, 1, 2], [1, 1, 2], [1, 1, 3], [5, 2, 0]])
    resolved = resolve_collisions(codes, points, Line([10, 10, 10]))
    assert resolved.tolist() == [[1, 1, 4], [1, 1, 2], [1, 1, 1], [1, 1, 3], [5, 2, 0]]
    assert resolved.dtype == np.int32 and codes[0].tolist() == [1, 1, 2]  # the input stays as it is


def test_a_full_prefix_spills_to_the_nearest_one_with_room() -> None:
    # Two last codes a prefix. Four items at 11.1, of which two find room under (1, 1). The nearest other prefix is
    # (1, 2), one away from 11.1 - 10 (0.9, against 1.1 for (1, 0)), and its last code 0 is the nearer one.
    points = np.array([[11.1], [11.1], [11.1], [11.1]])
    codes = np.array([[1, 1, 1]] * 4)
    resolved = resolve_collisions(codes, points, Line([3, 3, 2]))
    assert resolved.tolist() == [[1, 1, 1], [1, 1, 0], [1, 2, 0], [1, 2, 1]]
    # Where all of level 1 is full as well, it goes on at level 0: 18 SIDs for 18 items.
    codes = np.array([[1, 1, 1]] * 18)
    resolved = resolve_collisions(codes, np.full((18, 1), 11.1), Line([3, 3, 2]))
    assert len(np.unique(resolved, axis=0)) == 18 and resolved[:6, 0].tolist() == [1] * 6
    with pytest.raises(ValueError, match="at most 18 items, one a SID of the level sizes .* found 19"):
        resolve_collisions(np.array([[1, 1, 1]] * 19), np.full((19, 1), 11.1), Line([3, 3, 2]))


def test_sinkhorn_takes_the_least_sum_of_distances() -> None:
    # Under (0, 0) with codes at 0, 0.1, 0.2, ...: items at 0.09, 0.10 and 0.11, all of code 1. One keeps 1, one goes
    # to 0, one to 2; dealing them out in order costs 0.09 + 0 + 0.09, any other way more.
    points = np.array([[0.10], [0.09], [0.11]])
    codes = np.array([[0, 0, 1]] * 3)
    dealt = resolve_collisions(codes, points, Line([2, 2, 5]), policy="sinkhorn")
    assert dealt[:, 2].tolist() == [1, 0, 2]
    # An item beside them has its own code, yet moves where that makes room: 0.12 to 3 and 0.11 to 2.
    points = np.array([[0.10], [0.09], [0.11], [0.24]])
    codes = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 2]])
    dealt = resolve_collisions(codes, points, Line([2, 2, 5]), policy="sinkhorn")
    assert dealt[:, 2].tolist() == [1, 0, 2, 3]
    kept = resolve_collisions(codes, points, Line([2, 2, 5]), policy="reassign")
    assert kept[3].tolist() == [0, 0, 2]
    # More items than codes: the rest finds a place next door.
    dealt = resolve_collisions(np.array([[0, 0, 1]] * 4), np.full((4, 1), 0.1), Line([2, 2, 3]), policy="sinkhorn")
    assert len(np.unique(dealt, axis=0)) == 4 and sorted(dealt[:, 1].tolist()) == [0, 0, 0, 1]


def test_suffix_and_keep() -> None:
    points = np.zeros((5, 1))
    codes = np.array([[0, 1, 1], [0, 0, 0], [0, 1, 1], [0, 1, 2], [0, 1, 1]])
    quantizer = Line([2, 2, 3])
    suffixed = resolve_collisions(codes, points, quantizer, policy="suffix")
    np.testing.assert_array_equal(suffixed[:, :3], codes)
    assert suffixed[:, 3].tolist() == [0, 0, 1, 0, 2] and suffixed.dtype == np.int32
    kept = resolve_collisions(codes, points, quantizer, policy="keep")
    np.testing.assert_array_equal(kept, codes)
    assert kept.dtype == np.int32


@pytest.mark.parametrize("policy", ["reassign", "sinkhorn"])
def test_new_items_go_where_nobody_is(policy: str) -> None:
    points = np.array([[0.10], [0.12]])
    codes = np.array([[0, 0, 1], [0, 0, 1]])
    # (0, 0, 1) and (0, 0, 2) are taken: 0 is the nearest free code of 0.10, then 3 of 0.12.
    taken = np.array([[0, 0, 1], [0, 0, 2], [0, 0, 2]])
    resolved = resolve_collisions(codes, points, Line([2, 2, 5]), policy=policy, taken=taken)
    assert resolved.tolist() == [[0, 0, 0], [0, 0, 3]]


def test_suffixes_of_new_items_go_on_after_the_highest() -> None:
    # Of (0, 0, 1) the numbers 0 and 4 are in use (the items between have been removed), of (1, 1, 1) none.
    taken = np.array([[0, 0, 1, 0], [0, 0, 1, 4]])
    codes = np.array([[0, 0, 1], [1, 1, 1], [0, 0, 1]])
    resolved = resolve_collisions(codes, np.zeros((3, 1)), Line([2, 2, 2]), policy="suffix", taken=taken)
    assert resolved[:, 3].tolist() == [5, 0, 6]


@pytest.mark.parametrize("policy", ["reassign", "sinkhorn"])
@pytest.mark.parametrize("kind", ["plain", "balanced", "rqvae"])
def test_no_collision_is_left_and_few_items_move(policy: str, kind: str) -> None:
    embeddings = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    embeddings[:40] = embeddings[0]  # more equal items than a prefix has room for
    if kind == "rqvae":
        quantizer = RQVAE([8, 8, 16], latent_dim=4, hidden_sizes=(8,), num_epochs=3, warmup_epochs=2)
    else:
        quantizer = ResidualKMeans([8, 8, 16], balanced=kind == "balanced")
    codes = quantizer.fit(embeddings).encode(embeddings)
    resolved = resolve_collisions(codes, embeddings, quantizer, policy=policy)
    assert len(np.unique(resolved, axis=0)) == 300
    assert (resolved < [8, 8, 16]).all() and (resolved >= 0).all()
    # Only what must move to another prefix does: of 40 equal items 16 find room.
    assert 24 <= (resolved[:, :2] != codes[:, :2]).any(axis=1).sum() < 60
    if policy == "reassign":
        alone = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        is_alone = alone[2][alone[1].reshape(-1)] == 1
        np.testing.assert_array_equal(resolved[is_alone], codes[is_alone])
    again = resolve_collisions(codes, embeddings, quantizer, policy=policy)
    np.testing.assert_array_equal(resolved, again)
    # Nothing collides any more, so nothing moves any more.
    np.testing.assert_array_equal(resolve_collisions(resolved, embeddings, quantizer, policy=policy), resolved)


def test_refusals() -> None:
    codes, points, quantizer = np.zeros((2, 3), dtype=int), np.zeros((2, 1)), Line([2, 2, 2])
    with pytest.raises(ValueError, match="`policy` among .* found 'drop'"):
        resolve_collisions(codes, points, quantizer, policy="drop")
    with pytest.raises(ValueError, match=r"of shape \(2, 3\), a row an embedding.* found \(2, 2\)"):
        resolve_collisions(codes[:, :2], points, quantizer)
    with pytest.raises(ValueError, match=r"of shape \(1, 3\).* found \(2, 3\)"):
        resolve_collisions(codes, points[:1], quantizer)
    with pytest.raises(ValueError, match=r"below the level sizes \[2, 2, 2\], found \[2, 2, 2\]"):
        resolve_collisions(codes + 2, points, quantizer)
    with pytest.raises(ValueError, match=r"`taken` of shape \(others, 4\) for the policy 'suffix', found \(2, 3\)"):
        resolve_collisions(codes, points, quantizer, policy="suffix", taken=codes)
    with pytest.raises(ValueError, match="integer codes"):
        resolve_collisions(codes + 0.5, points, quantizer)
    # The index of another quantiser.
    with pytest.raises(ValueError, match=r"below the level sizes \[2, 2, 2\], found \[0, 0, 5\]"):
        resolve_collisions(codes, points, quantizer, taken=np.array([[0, 0, 5]]))
    with pytest.raises(ValueError, match="at most 8 items, .* found 9"):
        resolve_collisions(codes[:1], points[:1], quantizer, taken=np.stack(np.unravel_index(range(8), (2, 2, 2)), 1))
