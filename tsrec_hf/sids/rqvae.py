"""
RQ-VAE: residual quantisation of a learned space (TIGER, arXiv 2305.05065, section 3.1).

An encoder maps embeddings to a narrow space in which the levels quantise, a decoder maps back; all of it is trained by
gradient. What differs from TIGER: the autoencoder is trained alone for some epochs before the codebooks start, by
k-means on the latents of all items instead of those of the first batch; and codes that no item took in an epoch begin
again at residuals that no code fits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.utils.logging import tqdm

from .residual_kmeans import ResidualKMeans, as_matrix, read_quantizer


RQVAE_NAME = "rqvae.safetensors"
# What is learned depends on the steps more than on the passes: a large catalogue is passed over less often, so that
# 100,000 items take about as long as 15,000. The smallest ones get the most passes.
MOST_EPOCHS, MOST_STEPS = 100, 3000
MOST_WARMUP_EPOCHS, MOST_WARMUP_STEPS = 20, 600


class RQVAE:
    r"""
    Turns embeddings into semantic IDs by a residual-quantised autoencoder.

    Used like [`ResidualKMeans`]. The same embeddings, seed and machine give the same codes.

    Args:
        level_sizes (`Sequence[int]`):
            Number of codes at each level, first level first. None may exceed the number of items given to [`fit`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of weights, batches, first codebooks and revived codes.
        latent_dim (`int`, *optional*, defaults to `32`):
            Width of the space that is quantised.
        hidden_sizes (`Sequence[int]`, *optional*, defaults to `(256, 128)`):
            Widths of the encoder's hidden layers; the decoder has them in reverse.
        num_epochs (`int`, *optional*):
            Passes over the items with quantisation. Defaults to 100, or to as many as make 3,000 steps if those are
            fewer (more than 15,000 items at the default batch size), at least 1.
        warmup_epochs (`int`, *optional*):
            Passes of the autoencoder alone, before. Defaults to 20, likewise limited by 600 steps.
        batch_size (`int`, *optional*, defaults to `512`):
            Items in a step.
        learning_rate (`float`, *optional*, defaults to `1e-3`):
            Peak learning rate of AdamW; it falls to zero along a cosine.
        commitment (`float`, *optional*, defaults to `0.25`):
            Weight of the loss that draws latents to their codes, against 1 for the loss that draws codes to latents
            and 1 for the reconstruction.
        device (`str`, *optional*):
            Where to compute. Defaults to a GPU if there is one.

    Attributes:
        history (`list[dict]`):
            Of each epoch with quantisation: losses a step, and the number of revived codes a level.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import RQVAE

    >>> centers = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    >>> embeddings = np.repeat(centers, 8, axis=0) + np.random.default_rng(0).normal(scale=0.01, size=(32, 3))
    >>> quantizer = RQVAE([4, 2], latent_dim=2, hidden_sizes=(8,), num_epochs=20, batch_size=8).fit(embeddings)
    >>> codes = quantizer.encode(embeddings)
    >>> codes.shape
    (32, 2)
    >>> [len(set(codes[start : start + 8, 0].tolist())) for start in (0, 8, 16, 24)]  # one code of level 0 a center
    [1, 1, 1, 1]
    ```
    """

    def __init__(
        self,
        level_sizes: Sequence[int],
        seed: int = 0,
        latent_dim: int = 32,
        hidden_sizes: Sequence[int] = (256, 128),
        num_epochs: int | None = None,
        warmup_epochs: int | None = None,
        batch_size: int = 512,
        learning_rate: float = 1e-3,
        commitment: float = 0.25,
        device: str | None = None,
    ) -> None:
        # The levels of the latent space: k-means starts them, gradients move them, it encodes and decodes by them.
        self._levels = ResidualKMeans(level_sizes, seed=seed)
        self.level_sizes = self._levels.level_sizes
        self.seed = seed
        self.latent_dim = latent_dim
        self.hidden_sizes = [int(size) for size in hidden_sizes]
        self.num_epochs = num_epochs
        self.warmup_epochs = warmup_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.commitment = commitment
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if not (learning_rate > 0 and commitment >= 0):  # NaN is neither
            raise ValueError(
                f"Expected a positive `learning_rate` and a `commitment` of at least 0, found {learning_rate} and "
                f"{commitment}. Leave them out for the defaults."
            )
        given = [size for size in (latent_dim, num_epochs, batch_size, *self.hidden_sizes) if size is not None]
        if min(given) < 1 or (warmup_epochs is not None and warmup_epochs < 0):
            raise ValueError(
                "Expected `latent_dim`, `hidden_sizes`, `num_epochs` and `batch_size` of at least 1 and "
                f"`warmup_epochs` of at least 0, found {self._settings()}. Leave them out for the defaults."
            )
        self.history: list[dict] = []
        self._encoder: nn.Sequential | None = None
        self._decoder: nn.Sequential | None = None
        self._mean: torch.Tensor | None = None
        self._scale: torch.Tensor | None = None

    def fit(self, embeddings: np.ndarray) -> RQVAE:
        r"""
        Trains encoder, codebooks and decoder.

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item.

        Returns:
            [`RQVAE`]: Itself, so that calls can be chained.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import RQVAE

        >>> embeddings = np.random.default_rng(0).normal(size=(20, 4))
        >>> quantizer = RQVAE([4, 4], latent_dim=2, hidden_sizes=(8,), num_epochs=3).fit(embeddings)
        >>> sorted(quantizer.history[0])
        ['codebook', 'commitment', 'reconstruction', 'revived']
        ```
        """
        matrix = as_matrix(embeddings)
        if len(matrix) < max(self.level_sizes):
            raise ValueError(
                f"Expected at least {max(self.level_sizes)} items, one a code of the widest level, found "
                f"{len(matrix)}. Lower `level_sizes` (now {self.level_sizes})."
            )
        points = torch.from_numpy(matrix).to(self.device)  # (items, dim)
        generator = torch.Generator().manual_seed(self.seed)
        # The caller's random state stays as it is: the layers' first weights are drawn from a fork of it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._build(matrix.shape[1])
        # One scale for all columns, so that distances keep their proportions.
        self._mean = points.mean(dim=0)
        self._scale = (points - self._mean).square().mean().sqrt().clamp_min(1e-12)
        points = (points - self._mean) / self._scale

        steps = -(-len(points) // self.batch_size)
        warmup_epochs, num_epochs = self.warmup_epochs, self.num_epochs
        if warmup_epochs is None:
            warmup_epochs = max(1, min(MOST_WARMUP_EPOCHS, MOST_WARMUP_STEPS // steps))
        if num_epochs is None:
            num_epochs = max(1, min(MOST_EPOCHS, MOST_STEPS // steps))
        self.history = []
        with tqdm(total=warmup_epochs + num_epochs, desc="Fitting RQ-VAE", unit="epoch") as progress:
            optimizer, schedule = self._optimizer([], warmup_epochs * steps)
            for _ in range(warmup_epochs):
                for rows in self._batches(len(points), generator):
                    self._step(points[rows], [], optimizer, schedule)
                progress.update()
            self._levels.fit(self._latents(matrix))
            codebooks = [nn.Parameter(torch.from_numpy(level).to(self.device)) for level in self._levels.centroids]
            optimizer, schedule = self._optimizer(codebooks, num_epochs * steps)
            for _ in range(num_epochs):
                sums = {"reconstruction": 0.0, "codebook": 0.0, "commitment": 0.0}
                for rows in self._batches(len(points), generator):
                    losses = self._step(points[rows], codebooks, optimizer, schedule)
                    sums = {name: sums[name] + losses[name] for name in sums}
                revived = self._revive(codebooks, points, optimizer, generator)
                self.history.append({name: value / steps for name, value in sums.items()} | {"revived": revived})
                progress.update()
        self._levels.centroids = [codebook.detach().cpu().numpy() for codebook in codebooks]
        return self

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        r"""
        Codes of embeddings, also of items that were not there in [`fit`].

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item, as wide as those given to [`fit`].

        Returns:
            `np.ndarray` of shape `(items, levels)`: int32 codes.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import RQVAE

        >>> embeddings = np.random.default_rng(0).normal(size=(20, 4))
        >>> quantizer = RQVAE([4, 4], latent_dim=2, hidden_sizes=(8,), num_epochs=3).fit(embeddings)
        >>> quantizer.encode(embeddings[:3]).shape
        (3, 2)
        ```
        """
        return self._levels.encode(self._latents(embeddings))

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        r"""
        What codes say about an embedding, by the decoder.

        Args:
            codes (`np.ndarray` of shape `(items, levels)`):
                Codes of all levels, or of the first ones alone.

        Returns:
            `np.ndarray` of shape `(items, dim)`: float32 embeddings.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import RQVAE

        >>> embeddings = np.random.default_rng(0).normal(size=(20, 4))
        >>> quantizer = RQVAE([4, 4], latent_dim=2, hidden_sizes=(8,), num_epochs=3).fit(embeddings)
        >>> quantizer.decode(quantizer.encode(embeddings)).shape
        (20, 4)
        ```
        """
        self._check_fitted()
        latents = torch.from_numpy(self._levels.decode(codes)).to(self.device)
        return (self._decoder(latents) * self._scale + self._mean).cpu().numpy()

    def distances(self, embeddings: np.ndarray, codes: np.ndarray) -> np.ndarray:
        r"""
        How badly each code of the next level suits items whose first codes are given; [`encode`] takes the least.

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item.
            codes (`np.ndarray` of shape `(items, l)`):
                Codes of the levels before level `l`; `l` is 0 for the first level.

        Returns:
            `np.ndarray` of shape `(items, level_sizes[l])`: float32 squared distances in the latent space.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import RQVAE

        >>> embeddings = np.random.default_rng(0).normal(size=(20, 4))
        >>> quantizer = RQVAE([4, 4], latent_dim=2, hidden_sizes=(8,), num_epochs=3).fit(embeddings)
        >>> codes = quantizer.encode(embeddings)
        >>> bool((quantizer.distances(embeddings, codes[:, :1]).argmin(axis=1) == codes[:, 1]).all())
        True
        ```
        """
        return self._levels.distances(self._latents(embeddings), codes)

    def drop_unused(self, codes: np.ndarray) -> np.ndarray:
        r"""
        Forgets the codes that no item has, so that new items get none of them; see [`ResidualKMeans.drop_unused`].

        Args:
            codes (`np.ndarray` of shape `(items, levels)`):
                Codes of all items, after [`resolve_collisions`]; an extra level of that is left as it is.

        Returns:
            `np.ndarray` of the same shape: int32 codes, numbered anew without gaps.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import RQVAE

        >>> embeddings = np.random.default_rng(0).normal(size=(20, 4))
        >>> quantizer = RQVAE([8, 4], latent_dim=2, hidden_sizes=(8,), num_epochs=3).fit(embeddings)
        >>> codes = quantizer.drop_unused(quantizer.encode(embeddings[:5]))
        >>> bool((codes.max(axis=0) + 1 == quantizer.level_sizes).all())
        True
        ```
        """
        self._check_fitted()
        return self._levels.drop_unused(codes)

    def save(self, directory: str | Path) -> None:
        r"""
        Writes weights, codebooks and settings to `rqvae.safetensors`.

        Args:
            directory (`str` or `Path`):
                Folder to write to; made if missing.

        Example:

        ```python
        >>> import tempfile
        >>> import numpy as np
        >>> from tsrec_hf.sids import RQVAE

        >>> embeddings = np.random.default_rng(0).normal(size=(20, 4))
        >>> quantizer = RQVAE([4, 4], latent_dim=2, hidden_sizes=(8,), num_epochs=3).fit(embeddings)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     quantizer.save(directory)
        ...     loaded = RQVAE.load(directory)
        >>> bool((loaded.encode(embeddings) == quantizer.encode(embeddings)).all())
        True
        ```
        """
        self._check_fitted()
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"level_{level}": torch.from_numpy(book) for level, book in enumerate(self._levels.centroids)}
        for name, part in (("encoder", self._encoder), ("decoder", self._decoder)):
            tensors |= {f"{name}.{key}": tensor.cpu() for key, tensor in part.state_dict().items()}
        tensors |= {"mean": self._mean.cpu(), "scale": self._scale.cpu()}
        save_file(tensors, directory / RQVAE_NAME, metadata={"settings": json.dumps(self._settings())})

    @classmethod
    def load(cls, directory: str | Path, device: str | None = None) -> RQVAE:
        r"""
        Reads what [`save`] wrote; [`encode`] then gives the same codes.

        Args:
            directory (`str` or `Path`):
                Folder that holds `rqvae.safetensors`.
            device (`str`, *optional*):
                Where to compute. Defaults to a GPU if there is one.

        Returns:
            [`RQVAE`]: Ready to [`encode`].

        Example:

        ```python
        >>> import tempfile
        >>> import numpy as np
        >>> from tsrec_hf.sids import RQVAE

        >>> embeddings = np.random.default_rng(0).normal(size=(20, 4))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     RQVAE([4, 4], latent_dim=2, hidden_sizes=(8,), num_epochs=3).fit(embeddings).save(directory)
        ...     RQVAE.load(directory).level_sizes
        [4, 4]
        ```
        """
        settings, arrays = read_quantizer(Path(directory) / RQVAE_NAME, cls.__name__)
        quantizer = cls(**settings, device=device)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        levels = quantizer._levels
        levels.centroids = [tensors.pop(f"level_{level}").numpy() for level in range(len(levels.level_sizes))]
        levels.prices = [np.zeros(size, dtype=np.float32) for size in levels.level_sizes]
        quantizer._mean = tensors.pop("mean").to(quantizer.device)
        quantizer._scale = tensors.pop("scale").to(quantizer.device)
        quantizer._build(tensors["encoder.0.weight"].shape[1])
        nn.ModuleDict({"encoder": quantizer._encoder, "decoder": quantizer._decoder}).load_state_dict(tensors)
        return quantizer

    def _settings(self) -> dict:
        names = ("level_sizes", "seed", "latent_dim", "hidden_sizes", "num_epochs", "warmup_epochs", "batch_size")
        return {name: getattr(self, name) for name in (*names, "learning_rate", "commitment")}

    def _check_fitted(self) -> None:
        if self._encoder is None:
            raise RuntimeError(
                "Expected a trained RQ-VAE, found none. Call `fit(embeddings)` or `RQVAE.load(directory)`."
            )

    def _build(self, dim: int) -> None:
        sizes = [dim, *self.hidden_sizes, self.latent_dim]
        self._encoder = _perceptron(sizes).to(self.device)
        self._decoder = _perceptron(sizes[::-1]).to(self.device)

    def _optimizer(self, codebooks: list[nn.Parameter], steps: int):
        weights = [*self._encoder.parameters(), *self._decoder.parameters()]
        groups = [{"params": weights, "weight_decay": 1e-4}, {"params": codebooks, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.learning_rate)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))

    def _batches(self, num_items: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        return torch.randperm(num_items, generator=generator).to(self.device).split(self.batch_size)

    def _step(self, batch: torch.Tensor, codebooks: list[nn.Parameter], optimizer, schedule) -> dict[str, float]:
        latents = self._encoder(batch)  # (batch, latent)
        quantized = torch.zeros_like(latents)
        losses = {"codebook": latents.new_zeros(()), "commitment": latents.new_zeros(())}
        for codebook in codebooks:
            # A level's targets are what the earlier ones leave over, as numbers: each level answers for itself alone.
            residual = latents - quantized.detach()
            chosen = codebook[_nearest(residual, codebook)]
            losses["codebook"] = losses["codebook"] + nn.functional.mse_loss(chosen, residual.detach())
            losses["commitment"] = losses["commitment"] + nn.functional.mse_loss(residual, chosen.detach())
            quantized = quantized + chosen
        # Straight through: the decoder sees codes, the encoder gets the gradient as if it had seen latents.
        seen = latents + (quantized - latents).detach() if codebooks else latents
        losses["reconstruction"] = nn.functional.mse_loss(self._decoder(seen), batch)
        if not losses["reconstruction"].isfinite():
            raise ValueError(
                f"Expected training to lower the reconstruction loss, but it is {losses['reconstruction'].item()}. "
                f"Lower `learning_rate` (now {self.learning_rate})."
            )
        loss = losses["reconstruction"] + losses["codebook"] + self.commitment * losses["commitment"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return {name: value.item() for name, value in losses.items()}

    @torch.no_grad()
    def _revive(
        self, codebooks: list[nn.Parameter], points: torch.Tensor, optimizer, generator: torch.Generator
    ) -> list[int]:
        """Puts each code that no item takes on a residual, drawn by its distance from the code it has."""
        residual, revived = self._encoder(points), []
        for codebook in codebooks:
            chosen = _nearest(residual, codebook)
            dead = torch.bincount(chosen, minlength=len(codebook)) == 0
            num_dead = int(dead.sum())
            if num_dead:
                misfit = (residual - codebook[chosen]).square().sum(dim=1).double().cpu() + 1e-12
                codebook[dead] = residual[misfit.multinomial(num_dead, generator=generator).to(residual.device)]
                for moment in optimizer.state[codebook].values():
                    if moment.shape == codebook.shape:  # what the optimiser remembers of the code's old place
                        moment[dead] = 0
                chosen = _nearest(residual, codebook)
            residual = residual - codebook[chosen]
            revived.append(num_dead)
        return revived

    @torch.inference_mode()
    def _latents(self, embeddings: np.ndarray) -> np.ndarray:
        self._check_fitted()
        matrix = as_matrix(embeddings)
        dim = self._encoder[0].in_features
        if matrix.shape[1] != dim:
            raise ValueError(
                f"Expected embeddings with {dim} columns, as in `fit`, found {matrix.shape[1]}. "
                "Embed these items with the model that embedded the others."
            )
        batches = [
            (batch.to(self.device) - self._mean) / self._scale for batch in torch.from_numpy(matrix).split(8192)
        ]
        return np.concatenate([self._encoder(batch).cpu().numpy() for batch in batches])


def _perceptron(sizes: Sequence[int]) -> nn.Sequential:
    layers = [nn.Linear(width, next_width) for width, next_width in zip(sizes[:-1], sizes[1:])]
    return nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.ReLU())), layers[-1])


def _nearest(points: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Index of the code nearest to each point, of shape `(points,)`. A point's own length decides nothing."""
    with torch.no_grad():
        return (codebook.square().sum(dim=1) - 2 * points @ codebook.T).argmin(dim=1)
