import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tsrec_hf.sids import ResidualKMeans


@pytest.fixture
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)


def test_codes_worked_by_hand() -> None:
    # Level 0: (-1, 0) and (1, 0) average to (0, 0); (99, 0) and (101, 0) to (100, 0).
    # What is left over is (-1, 0) or (1, 0), so these two are the centroids of level 1.
    points = np.array([[-1, 0], [1, 0], [99, 0], [101, 0]], dtype=np.float64)
    quantizer = ResidualKMeans([2, 2]).fit(points)
    assert sorted(map(tuple, quantizer.centroids[0])) == [(0, 0), (100, 0)]
    assert sorted(map(tuple, quantizer.centroids[1])) == [(-1, 0), (1, 0)]
    codes = quantizer.encode(points)
    assert codes.dtype == np.int32 and codes.shape == (4, 2)
    reconstructed = quantizer.centroids[0][codes[:, 0]] + quantizer.centroids[1][codes[:, 1]]
    np.testing.assert_array_equal(reconstructed, points)
    # (97, 0) is 3 left of (100, 0): its nearest residual centroid is (-1, 0), as for (99, 0).
    np.testing.assert_array_equal(quantizer.encode(np.array([[97.0, 0.0]])), codes[2:3])


def test_codes_are_the_nearest_centroids_of_the_residuals(embeddings: np.ndarray) -> None:
    quantizer = ResidualKMeans([16, 8, 4], balanced=False).fit(embeddings)
    codes, residual = quantizer.encode(embeddings), embeddings
    for level, centroids in enumerate(quantizer.centroids):
        distances = ((residual[:, None] - centroids[None]) ** 2).sum(axis=-1)
        np.testing.assert_array_equal(codes[:, level], distances.argmin(axis=1))
        residual = residual - centroids[codes[:, level]]
    assert [len(centroids) for centroids in quantizer.centroids] == [16, 8, 4]


def test_every_level_lowers_the_residual(embeddings: np.ndarray) -> None:
    quantizer = ResidualKMeans([16, 16, 16], balanced=False).fit(embeddings)
    codes, residual = quantizer.encode(embeddings), embeddings
    norms = [np.square(residual).sum()]
    for level, centroids in enumerate(quantizer.centroids):
        residual = residual - centroids[codes[:, level]]
        norms.append(np.square(residual).sum())
    assert norms == sorted(norms, reverse=True) and norms[-1] < 0.5 * norms[0]


def test_seed_decides(embeddings: np.ndarray) -> None:
    first, again, other = (ResidualKMeans([16, 8], seed=seed).fit(embeddings).encode(embeddings) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_as_many_codes_as_items_gives_every_item_its_own() -> None:
    points = np.arange(12, dtype=np.float32).reshape(6, 2) ** 2
    assert len(set(ResidualKMeans([6]).fit(points).encode(points)[:, 0].tolist())) == 6


def test_equal_items_collide_although_clusters_run_empty() -> None:
    points = np.repeat(np.array([[0.0, 1.0], [5.0, 5.0]]), 4, axis=0)
    codes = ResidualKMeans([4, 2]).fit(points).encode(points)
    assert (codes[:4] == codes[0]).all() and (codes[4:] == codes[4]).all() and codes[0, 0] != codes[4, 0]


def test_fitting_is_silent(embeddings: np.ndarray, capfd: pytest.CaptureFixture) -> None:
    ResidualKMeans([64, 64]).fit(embeddings)
    assert capfd.readouterr() == ("", "")


def test_save_and_load(embeddings: np.ndarray, tmp_path) -> None:
    quantizer = ResidualKMeans([16] * 11, seed=5, num_iterations=3).fit(embeddings)
    quantizer.save(tmp_path / "quantizer")
    loaded = ResidualKMeans.load(tmp_path / "quantizer")
    assert (loaded.level_sizes, loaded.seed, loaded.num_iterations) == ([16] * 11, 5, 3)
    np.testing.assert_array_equal(loaded.encode(embeddings), quantizer.encode(embeddings))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 2)), r"at least 4 items.*found 3.*Lower `level_sizes`"),
        (np.zeros(8), r"shape \(items, dim\), found \(8,\)"),
        (np.zeros((0, 2)), r"shape \(items, dim\), found \(0, 2\)"),
        (np.array([[0, 1], [np.nan, 0], [np.inf, 0], [0, 0]]), r"infinity in 2 of 4 rows, first in row 1"),
        # faiss would abort the process.
        (np.full((8, 2), 1e30), r"squares fit into float32, but the largest entry is 1.0e\+30"),
        (np.full((8, 2), 1e-30), r"squares fit into float32, but the largest entry is 1.0e-30"),
        (np.full((8, 2), 1e300), r"infinity in 8 of 8 rows"),
    ],
)
def test_fit_refuses(rows: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualKMeans([4]).fit(rows)


def test_encode_refuses(embeddings: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match=r"Call `fit\(embeddings\)`"):
        ResidualKMeans([4]).encode(embeddings)
    with pytest.raises(ValueError, match=r"8 columns, as in `fit`, found 3"):
        ResidualKMeans([4]).fit(embeddings).encode(embeddings[:, :3])


@pytest.mark.parametrize("rows", [np.full((8, 2), "1"), np.ones((8, 2), dtype=complex), np.ones((8, 2)) > 0])
def test_fit_refuses_other_types(rows: np.ndarray) -> None:
    with pytest.raises(TypeError, match="an array of real numbers, found dtype `"):
        ResidualKMeans([4]).fit(rows)


def test_tensors_and_other_floats_are_embeddings(embeddings: np.ndarray) -> None:
    quantizer = ResidualKMeans([16, 8]).fit(embeddings)
    codes = quantizer.encode(embeddings)
    for same in (embeddings.astype(np.float64), torch.tensor(embeddings, requires_grad=True)):
        np.testing.assert_array_equal(quantizer.encode(same), codes)
    half = torch.tensor(embeddings).bfloat16()
    assert (quantizer.encode(half) == quantizer.encode(half.float().numpy())).all()


@pytest.mark.parametrize("seed", [-1, 2**40, 0.5])
def test_seeds_are_checked(seed) -> None:
    with pytest.raises((ValueError, TypeError), match="`seed` (as an integer from 0|of .* as a whole number)"):
        ResidualKMeans([4], seed=seed)


@pytest.mark.parametrize("level_sizes", [[], [4, 0], "44", 4, [4.5, 4]])
def test_level_sizes_are_checked(level_sizes: list[int]) -> None:
    with pytest.raises((ValueError, TypeError), match="at least one level and one code|`level_sizes` of .* a list"):
        ResidualKMeans(level_sizes)
    with pytest.raises(ValueError, match="`num_iterations` of at least 1, found 0"):
        ResidualKMeans([4], num_iterations=0)


@pytest.mark.parametrize("length", [0, 20, 0.5, -1])
def test_load_refuses_files_that_were_cut_off(embeddings: np.ndarray, tmp_path, length) -> None:
    ResidualKMeans([4, 4]).fit(embeddings).save(tmp_path)
    path = tmp_path / "residual_kmeans.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content)) if length == 0.5 else length])
    with pytest.raises(
        ValueError, match="residual_kmeans.safetensors is not a whole safetensors file .* save it again"
    ):
        ResidualKMeans.load(tmp_path)


def test_load_refuses_other_files(embeddings: np.ndarray, tmp_path) -> None:
    path = tmp_path / "residual_kmeans.safetensors"
    for metadata in (None, {"settings": "{}"}):
        save_file({"weight": embeddings}, path, metadata=metadata)
        with pytest.raises(ValueError, match=r"to be what `ResidualKMeans.save` writes.*\['weight'\]"):
            ResidualKMeans.load(tmp_path)
    save_file({"level_0": embeddings * np.nan}, path, metadata={"settings": "{}"})
    with pytest.raises(ValueError, match="finite"):
        ResidualKMeans.load(tmp_path)


@pytest.mark.parametrize("balanced", [False, True])
def test_codes_without_items_are_forgotten(embeddings: np.ndarray, balanced: bool, tmp_path) -> None:
    quantizer = ResidualKMeans([16, 8], balanced=balanced).fit(embeddings)
    before = quantizer.encode(embeddings)
    # An extra level stays as it is.
    codes = np.column_stack([before, np.arange(300)])[before[:, 0] > 5]
    new = quantizer.drop_unused(codes)
    assert new.dtype == np.int32 and quantizer.level_sizes == [10, 8]
    assert (new[:, 0] == codes[:, 0] - 6).all() and (new[:, 1:] == codes[:, 1:]).all()
    np.testing.assert_array_equal(quantizer.encode(embeddings[before[:, 0] > 5]), new[:, :2])
    # Other items now get codes that somebody has, also from the saved file.
    quantizer.save(tmp_path)
    others = ResidualKMeans.load(tmp_path).encode(embeddings)
    assert set(others[:, 0]) == set(new[:, 0]) and others[:, 0].max() == 9


def test_load_names_the_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"residual_kmeans.safetensors.*ResidualKMeans.save"):
        ResidualKMeans.load(tmp_path)


def test_the_missing_extra_is_named() -> None:
    # The room itself opens without faiss: embedding needs none.
    script = (
        "import sys; sys.modules['faiss'] = None; import tsrec_hf.sids, numpy\n"
        "tsrec_hf.sids.ResidualKMeans([2, 2]).fit(numpy.eye(4))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode != 0
    assert "ImportError: Quantisers need faiss" in run.stderr and '".[sids]"' in run.stderr


@pytest.fixture
def lopsided() -> np.ndarray:
    """Clusters of very different sizes, three quarters of the items in one of sixteen."""
    rng = np.random.default_rng(0)
    cluster = np.where(rng.random(2000) < 0.75, 0, rng.integers(16, size=2000))
    return (rng.normal(scale=4, size=(16, 8))[cluster] + rng.normal(size=(2000, 8))).astype(np.float32)


def test_balanced_codes_are_used_alike(lopsided: np.ndarray) -> None:
    plain, balanced = (ResidualKMeans([16, 16], balanced=flag).fit(lopsided) for flag in (False, True))
    for level in range(2):
        counts = np.bincount(balanced.encode(lopsided)[:, level], minlength=16)
        # 125 items a code would be even.
        assert 85 < counts.min() and counts.max() < 175, counts
    unbalanced = np.bincount(plain.encode(lopsided)[:, 0])
    assert unbalanced.min() < 60 and unbalanced.max() > 200, unbalanced
    assert not any(penalties.any() for penalties in plain.penalties) and all(
        penalties.any() for penalties in balanced.penalties
    )


def test_balance_holds_for_new_items_one_by_one(lopsided: np.ndarray) -> None:
    quantizer = ResidualKMeans([16, 16], balanced=True).fit(lopsided[:1000])
    codes = quantizer.encode(lopsided[1000:])
    assert np.bincount(codes[:, 0], minlength=16).max() < 125  # 62.5 would be even
    one_by_one = np.concatenate([quantizer.encode(row[None]) for row in lopsided[1000:1100]])
    np.testing.assert_array_equal(codes[:100], one_by_one)
    # Codes are the least sums of squared distance and penalty.
    distances = ((lopsided[:9, None] - quantizer.centroids[0][None]) ** 2).sum(axis=-1) + quantizer.penalties[0]
    np.testing.assert_array_equal(quantizer.encode(lopsided[:9])[:, 0], distances.argmin(axis=1))


def test_balanced_is_decided_by_the_seed_and_saved(lopsided: np.ndarray, tmp_path) -> None:
    first, again, other = (ResidualKMeans([16, 8], seed=seed, balanced=True).fit(lopsided) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.encode(lopsided), again.encode(lopsided))
    assert (first.encode(lopsided) != other.encode(lopsided)).any()
    first.save(tmp_path)
    loaded = ResidualKMeans.load(tmp_path)
    assert loaded.balanced
    np.testing.assert_array_equal(loaded.encode(lopsided), first.encode(lopsided))


def test_balancing_equal_items() -> None:
    points = np.repeat(np.array([[0.0, 1.0], [5.0, 5.0]]), 4, axis=0)
    codes = ResidualKMeans([2, 2], balanced=True).fit(points).encode(points)
    assert len(np.unique(codes, axis=0)) == 2 and codes[0, 0] != codes[4, 0]


@pytest.mark.parametrize("balanced", [False, True])
def test_distances_are_what_encode_minimises(embeddings: np.ndarray, balanced: bool) -> None:
    quantizer = ResidualKMeans([16, 8, 4], balanced=balanced).fit(embeddings)
    codes = quantizer.encode(embeddings)
    for level in range(3):
        distances = quantizer.distances(embeddings, codes[:, :level])
        np.testing.assert_array_equal(distances.argmin(axis=1), codes[:, level])
    residual = embeddings - quantizer.decode(codes[:, :2])
    left_over = np.square(residual[:, None] - quantizer.centroids[2]).sum(axis=-1) + quantizer.penalties[2]
    np.testing.assert_allclose(distances, left_over, atol=1e-4)


def test_decode_refuses(embeddings: np.ndarray) -> None:
    quantizer = ResidualKMeans([4, 2]).fit(embeddings)
    with pytest.raises(ValueError, match=r"at most 2 levels, found shape \(1, 3\)"):
        quantizer.decode(np.zeros((1, 3), dtype=int))
    with pytest.raises(ValueError, match=r"below the level sizes \[4, 2\], found \[0, 2\] to \[0, 2\]"):
        quantizer.decode(np.array([[0, 2]]))
    with pytest.raises(ValueError, match="integer codes"):
        quantizer.decode(np.zeros((1, 2)))
