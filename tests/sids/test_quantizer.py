import sys

import numpy as np
import pytest

from tsrec_hf.sids import RQVAE, Quantizer, ResidualKMeans, resolve_collisions, sid_report
from tsrec_hf.sids.quantizer import import_faiss


class SampledCodebooks(Quantizer):
    """The least that a quantiser from outside the package needs: codebooks drawn from the residuals."""

    file_name = "sampled_codebooks.safetensors"

    def learn(self, embeddings: np.ndarray) -> list[np.ndarray]:
        rng, residual, codebooks = np.random.default_rng(self.seed), embeddings, []
        for size in self.level_sizes:
            codebooks.append(rng.choice(residual, size, replace=False))
            distances = np.square(residual[:, None] - codebooks[-1]).sum(axis=-1)
            residual = residual - codebooks[-1][distances.argmin(axis=1)]
        return codebooks


class RotatedKMeans(ResidualKMeans):
    """Codebooks in another, narrower space: the way there and back, and what it needs."""

    file_name = "rotated_kmeans.safetensors"

    def learn(self, embeddings: np.ndarray) -> list[np.ndarray]:
        self._axes = np.linalg.svd(embeddings, full_matrices=False)[2][:3]  # (3, dim)
        return super().learn(self.project(embeddings))

    def project(self, embeddings: np.ndarray) -> np.ndarray:
        return embeddings @ self._axes.T

    def reconstruct(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self._axes

    def state(self) -> dict[str, np.ndarray]:
        return {"axes": self._axes}

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        self._axes = arrays["axes"]

    @property
    def dim(self) -> int:
        return self._axes.shape[1]


QUANTIZERS = {
    "kmeans": lambda sizes: ResidualKMeans(sizes, seed=3, num_iterations=4, balanced=False),
    "balanced": lambda sizes: ResidualKMeans(sizes, balanced=True),
    "rqvae": lambda sizes: RQVAE(
        sizes, seed=3, latent_dim=3, hidden_sizes=(16,), num_epochs=12, batch_size=16, learning_rate=0.01
    ),
    "sampled": lambda sizes: SampledCodebooks(sizes, seed=np.int64(3)),
    "rotated": lambda sizes: RotatedKMeans(sizes, balanced=True),
}
each_quantizer = pytest.mark.parametrize("make", QUANTIZERS.values(), ids=QUANTIZERS)


@pytest.fixture
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


@each_quantizer
def test_every_quantizer_gives_sids(make, embeddings: np.ndarray) -> None:
    quantizer = make([8, 4, 16]).fit(embeddings)
    codes = quantizer.encode(embeddings)
    assert codes.dtype == np.int32 and (codes < [8, 4, 16]).all() and quantizer.dim == 6
    for level in range(3):
        distances = quantizer.distances(embeddings, codes[:, :level])
        np.testing.assert_array_equal(distances.argmin(axis=1), codes[:, level])
    resolved = resolve_collisions(codes, embeddings, quantizer)
    report = sid_report(resolved, embeddings, quantizer)
    assert report.collision_rate == 0 and report.level_sizes == [8, 4, 16]
    before = sid_report(codes, embeddings, quantizer)
    assert before.reconstruction_error[-1] < 0.95 * before.reconstruction_error[0]


@each_quantizer
def test_saved_quantizers_are_the_same_to_the_bit(make, embeddings: np.ndarray, tmp_path) -> None:
    quantizer = make([8, 4, 16]).fit(embeddings)
    codes = quantizer.drop_unused(quantizer.encode(embeddings[:60]))
    quantizer.save(tmp_path / "folder")
    [path] = (tmp_path / "folder").iterdir()
    assert path.name == quantizer.file_name
    loaded = type(quantizer).load(tmp_path / "folder")
    assert type(loaded) is type(quantizer) and loaded.settings() == quantizer.settings()
    assert loaded.level_sizes == [len(np.unique(column)) for column in codes.T]
    for name in ("encode", "decode", "distances"):
        arguments = {"encode": (embeddings,), "decode": (codes,), "distances": (embeddings[:60], codes[:, :2])}[name]
        np.testing.assert_array_equal(getattr(loaded, name)(*arguments), getattr(quantizer, name)(*arguments))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@each_quantizer
def test_unfitted_quantizers_say_what_to_do(make, embeddings: np.ndarray, tmp_path) -> None:
    quantizer = make([8, 4])
    codes = np.zeros((1, 2), dtype=int)
    calls = [lambda: quantizer.encode(embeddings), lambda: quantizer.decode(codes), lambda: quantizer.save(tmp_path)]
    calls += [lambda: quantizer.distances(embeddings[:1], codes[:, :1]), lambda: quantizer.drop_unused(codes)]
    for call in calls:
        with pytest.raises(RuntimeError, match=rf"Call `fit\(embeddings\)` or `{type(quantizer).__name__}.load\("):
            call()
    assert not list(tmp_path.iterdir())


def test_distances_by_hand() -> None:
    quantizer = SampledCodebooks([2, 2]).fit(np.eye(2, dtype=np.float32))
    quantizer.centroids = [np.float32([[0, 0], [4, 0]]), np.float32([[1, 0], [0, 2]])]
    quantizer.penalties = [np.float32([0, 3]), np.float32([0.5, 0])]
    points = np.array([[3.0, 1.0], [2.0, 0.0]])
    # 9 + 1 and 1 + 1 + 3; 4 and 4 + 3. Plain distance puts the first point on code 1, and so do penalties.
    first = quantizer.distances(points, np.empty((2, 0), dtype=int))
    np.testing.assert_array_equal(first, [[10, 5], [4, 7]])
    # What is left: (-1, 1) and (2, 0). 4 + 1 + 0.5 and 1 + 1; 1 + 0.5 and 4 + 4.
    second = quantizer.distances(points, np.array([[1], [0]]))
    np.testing.assert_array_equal(second, [[5.5, 2], [1.5, 8]])
    assert quantizer.encode(points).tolist() == [[1, 1], [0, 0]]
    np.testing.assert_array_equal(quantizer.decode(np.array([[1, 1]])), [[4, 2]])


def test_a_fit_that_fails_leaves_no_codebooks(embeddings: np.ndarray) -> None:
    quantizer = RQVAE([8, 4], latent_dim=3, hidden_sizes=(8,), num_epochs=2).fit(embeddings)
    quantizer.learning_rate = 1e20
    with pytest.raises(ValueError, match="Lower `learning_rate`"):
        quantizer.fit(embeddings)
    with pytest.raises(RuntimeError, match="Expected a fitted quantiser"):
        quantizer.encode(embeddings)


def test_codebooks_of_a_subclass_are_checked(embeddings: np.ndarray) -> None:
    class Short(SampledCodebooks):
        def learn(self, embeddings):
            return [embeddings[:8], embeddings[:3]]

    with pytest.raises(
        ValueError, match=r"`Short.learn` to return codebooks of \[8, 4\] rows, found shapes \[\(8, 6\)"
    ):
        Short([8, 4]).fit(embeddings)
    with pytest.raises(TypeError, match="abstract"):
        Quantizer([8, 4])


def test_without_faiss_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"need faiss.*\.\[sids\]"):
        import_faiss()
