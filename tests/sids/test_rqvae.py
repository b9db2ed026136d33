import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tsrec_hf.sids import RQVAE, sid_report


SETTINGS = {"latent_dim": 4, "hidden_sizes": (16,), "num_epochs": 12, "warmup_epochs": 12, "batch_size": 32}
SETTINGS["learning_rate"] = 0.01


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    """Twelve clusters in a four-dimensional subspace of sixteen dimensions."""
    rng = np.random.default_rng(0)
    points = rng.normal(scale=3, size=(12, 4))[rng.integers(12, size=400)] + rng.normal(scale=0.5, size=(400, 4))
    return (points @ rng.normal(size=(4, 16)) + 5).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer(embeddings: np.ndarray) -> RQVAE:
    return RQVAE([16, 8], **SETTINGS).fit(embeddings)


def test_fitting_learns(embeddings: np.ndarray, quantizer: RQVAE) -> None:
    first, last = quantizer.history[0], quantizer.history[-1]
    assert len(quantizer.history) == 12
    assert last["reconstruction"] < first["reconstruction"] and last["codebook"] > 0
    report = sid_report(quantizer.encode(embeddings), embeddings, quantizer)
    # Noise is 0.5^2 of (3^2 + 0.5^2) of the variance: 2.7 %. The mean embedding alone would leave 100 %.
    assert report.reconstruction_error[0] > report.reconstruction_error[1] and report.reconstruction_error[1] < 0.15
    assert min(report.use) > 0.9


def test_codes_are_int32_and_nearest_in_the_latent_space(embeddings: np.ndarray, quantizer: RQVAE) -> None:
    codes = quantizer.encode(embeddings)
    assert codes.dtype == np.int32 and codes.shape == (400, 2)
    for level in range(2):
        np.testing.assert_array_equal(
            quantizer.distances(embeddings, codes[:, :level]).argmin(axis=1), codes[:, level]
        )
    # Items are coded one by one.
    np.testing.assert_array_equal(np.concatenate([quantizer.encode(row[None]) for row in embeddings[:20]]), codes[:20])


def test_seed_decides_and_nothing_else(embeddings: np.ndarray, quantizer: RQVAE) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = RQVAE([16, 8], **SETTINGS).fit(embeddings)
    assert torch.equal(torch.get_rng_state(), before)
    other = RQVAE([16, 8], seed=1, **SETTINGS).fit(embeddings)
    np.testing.assert_array_equal(again.encode(embeddings), quantizer.encode(embeddings))
    assert (other.encode(embeddings) != quantizer.encode(embeddings)).any()


def test_the_random_state_of_the_caller_is_left_alone(embeddings: np.ndarray, monkeypatch) -> None:
    # `torch.manual_seed` reseeds the CUDA generators too, and forking the CPU's state does not bring them back.
    reseeded = []
    for module, name in ((torch, "manual_seed"), (torch.random, "manual_seed"), (torch.cuda, "manual_seed_all")):
        monkeypatch.setattr(module, name, lambda seed, name=name: reseeded.append(name))
    before = torch.get_rng_state()
    RQVAE([4, 4], latent_dim=2, hidden_sizes=(8,), num_epochs=2, warmup_epochs=2).fit(embeddings)
    assert not reseeded and torch.equal(torch.get_rng_state(), before)


def test_weights_start_as_those_of_linear_layers_do() -> None:
    torch.manual_seed(5)
    expected = [torch.nn.Linear(6, 4), torch.nn.Linear(4, 2), torch.nn.Linear(2, 4), torch.nn.Linear(4, 6)]
    quantizer = RQVAE([2], latent_dim=2, hidden_sizes=(4,), device="cpu")
    model = quantizer._new_autoencoder(6, torch.Generator().manual_seed(5))
    layers = [layer for layer in (*model.encoder, *model.decoder) if isinstance(layer, torch.nn.Linear)]
    for layer, linear in zip(layers, expected, strict=True):
        assert torch.equal(layer.weight, linear.weight) and torch.equal(layer.bias, linear.bias)


class ReadsOfTheDevice(TorchDispatchMode):
    """Counts numbers taken out of tensors: on a GPU each waits for all work that was queued before it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_does_not_wait_for_the_device(embeddings: np.ndarray, quantizer: RQVAE) -> None:
    codebooks = [torch.nn.Parameter(torch.from_numpy(level.copy())) for level in quantizer.centroids]
    # SGD, because AdamW on a CPU reads its own counter of steps.
    optimizer = torch.optim.SGD([*quantizer._autoencoder.parameters(), *codebooks], lr=0.0)
    points = quantizer._autoencoder.standardize(torch.from_numpy(embeddings))
    with ReadsOfTheDevice() as reads:
        losses = quantizer._step(points, codebooks, optimizer)
    assert reads.count == 0 and losses.shape == (3,)
    with ReadsOfTheDevice() as reads:  # the counter does count
        losses[0].item()
    assert reads.count == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for_nor_reseeded(embeddings: np.ndarray) -> None:
    quantizer = RQVAE([16, 8], **SETTINGS, device="cuda")
    before = torch.cuda.get_rng_state()
    quantizer.fit(embeddings)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    codebooks = [torch.nn.Parameter(torch.from_numpy(level).cuda()) for level in quantizer.centroids]
    optimizer, _ = quantizer._optimizer(codebooks, 10)
    points = quantizer._autoencoder.standardize(torch.from_numpy(embeddings).cuda())
    torch.cuda.set_sync_debug_mode("error")
    try:
        quantizer._step(points, codebooks, optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_scale_of_the_embeddings_does_not_matter(embeddings: np.ndarray, quantizer: RQVAE) -> None:
    # A power of two: floats keep all their digits.
    scaled = RQVAE([16, 8], **SETTINGS).fit(embeddings * 1024)
    codes = quantizer.encode(embeddings)
    assert (scaled.encode(embeddings * 1024) == codes).mean() > 0.99
    np.testing.assert_allclose(scaled.decode(codes), 1024 * quantizer.decode(codes), rtol=1e-2, atol=10)


def test_dead_codes_are_revived(embeddings: np.ndarray) -> None:
    quantizer = RQVAE([64, 8], **SETTINGS)
    quantizer.fit(embeddings)
    generator = torch.Generator().manual_seed(0)
    points = quantizer._autoencoder.standardize(torch.from_numpy(embeddings))
    codebooks = [torch.nn.Parameter(torch.from_numpy(level.copy())) for level in quantizer.centroids]
    codebooks[0].data[10:] = 1e6  # nobody comes here
    optimizer, _ = quantizer._optimizer(codebooks, 10)
    for codebook in codebooks:
        optimizer.state[codebook] = {"step": torch.tensor(3.0), "exp_avg": torch.ones_like(codebook)}
    assert quantizer._revive(codebooks, points, optimizer, generator)[0] == 54
    latents = quantizer._autoencoder.encoder(points)
    chosen = torch.cdist(latents, codebooks[0]).argmin(dim=1)
    assert len(chosen.unique()) >= 54
    memory = optimizer.state[codebooks[0]]["exp_avg"]
    assert memory[:10].eq(1).all() and memory[10:].eq(0).all()


def test_revival_fills_what_training_leaves_empty(embeddings: np.ndarray) -> None:
    # As many codes as there are items: many die on the way, and come back.
    quantizer = RQVAE([200, 8], **SETTINGS).fit(embeddings)
    assert sum(epoch["revived"][0] for epoch in quantizer.history) > 0
    assert sid_report(quantizer.encode(embeddings), embeddings, quantizer).use[0] > 0.9


def test_save_and_load(embeddings: np.ndarray, quantizer: RQVAE, tmp_path) -> None:
    quantizer.save(tmp_path / "quantizer")
    assert [path.name for path in (tmp_path / "quantizer").iterdir()] == ["rqvae.safetensors"]
    loaded = RQVAE.load(tmp_path / "quantizer")
    assert loaded.settings() == quantizer.settings()
    codes = quantizer.encode(embeddings)
    np.testing.assert_array_equal(loaded.encode(embeddings), codes)
    np.testing.assert_array_equal(loaded.decode(codes), quantizer.decode(codes))


def test_codes_without_items_are_forgotten(embeddings: np.ndarray, tmp_path) -> None:
    quantizer = RQVAE([16, 8], **SETTINGS).fit(embeddings)
    before = quantizer.encode(embeddings)
    kept = before[:, 0] % 2 == 0
    codes = quantizer.drop_unused(before[kept])
    assert quantizer.level_sizes[0] == len(np.unique(before[kept, 0])) < 16
    np.testing.assert_array_equal(quantizer.encode(embeddings[kept])[:, 0], codes[:, 0])
    quantizer.save(tmp_path)
    np.testing.assert_array_equal(RQVAE.load(tmp_path).encode(embeddings), quantizer.encode(embeddings))


def test_large_catalogues_are_passed_over_less_often(embeddings: np.ndarray, monkeypatch) -> None:
    # 400 items are 13 steps of 32: a limit of 40 leaves 3 of 100 passes, and one of 5 leaves 1 of the warm-up's 20.
    monkeypatch.setattr("tsrec_hf.sids.rqvae.MOST_STEPS", 40)
    monkeypatch.setattr("tsrec_hf.sids.rqvae.MOST_WARMUP_STEPS", 5)
    quantizer = RQVAE([4, 4], latent_dim=2, hidden_sizes=(4,), batch_size=32).fit(embeddings)
    assert len(quantizer.history) == 3
    # Who says how many gets as many.
    assert (
        len(RQVAE([4, 4], latent_dim=2, hidden_sizes=(4,), batch_size=32, num_epochs=5).fit(embeddings).history) == 5
    )


def test_equal_items_do_not_break_it() -> None:
    quantizer = RQVAE([2, 2], **SETTINGS).fit(np.ones((8, 3)))
    codes = quantizer.encode(np.ones((8, 3)))
    assert (codes == codes[0]).all()
    np.testing.assert_allclose(quantizer.decode(codes), 1, atol=1e-3)


def test_refusals(embeddings: np.ndarray, quantizer: RQVAE, tmp_path) -> None:
    with pytest.raises(ValueError, match="at least 500 items.*found 400.*Lower `level_sizes`"):
        RQVAE([500, 4]).fit(embeddings)
    with pytest.raises(ValueError, match="`batch_size` of at least 1"):
        RQVAE([4, 4], batch_size=0)
    with pytest.raises(ValueError, match="at least one level and one code"):
        RQVAE([])
    with pytest.raises(RuntimeError, match=r"Call `fit\(embeddings\)`"):
        RQVAE([4, 4]).encode(embeddings)
    with pytest.raises(ValueError, match="16 columns, as in `fit`, found 3"):
        quantizer.encode(embeddings[:, :3])
    with pytest.raises(ValueError, match="infinity in 1 of 400 rows, first in row 2"):
        quantizer.encode(np.where(np.arange(400)[:, None] == 2, np.nan, embeddings))
    with pytest.raises(ValueError, match="`learning_rate` of `RQVAE` as a finite number, but found nan"):
        RQVAE([4, 4], learning_rate=float("nan"))
    with pytest.raises(ValueError, match=r"Lower `learning_rate` \(now 1e\+20\)"):
        RQVAE([4, 4], **{**SETTINGS, "learning_rate": 1e20}).fit(embeddings)
    quantizer.save(tmp_path / "cut")
    path = tmp_path / "cut" / "rqvae.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="rqvae.safetensors is not a whole safetensors file"):
        RQVAE.load(tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="rqvae.safetensors.*RQVAE.save"):
        RQVAE.load(tmp_path)
