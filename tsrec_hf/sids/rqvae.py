"""
RQ-VAE: residual quantisation of a learned space (TIGER, arXiv 2305.05065, section 3.1).

An encoder maps embeddings to a narrow latent space in which the levels quantise, a decoder maps back; all of it is
trained by gradient. Two things differ from TIGER. The autoencoder is trained alone for some epochs, and the codebooks
then start from k-means on the latents of all items instead of those of the first batch. And codes that no item took in
an epoch restart at poorly quantised residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tsrec_hf.models.checking_tsrec import checks_types

from .progress import progress_bar
from .quantizer import Quantizer
from .residual_kmeans import ResidualKMeans


# What is learned depends on the number of steps more than on that of epochs, so limits on steps bound the cost:
# 100,000 items take about as long as 15,000. Small catalogues get all epochs.
MOST_EPOCHS, MOST_STEPS = 100, 3000
MOST_WARMUP_EPOCHS, MOST_WARMUP_STEPS = 20, 600
LOSSES = ("reconstruction", "codebook", "commitment")


class RQVAE(Quantizer):
    r"""
    Turn embeddings into semantic IDs by a residual-quantised autoencoder.

    Used like [`ResidualKMeans`]: [`fit`], [`encode`], [`decode`], [`save`] and [`load`] are those of [`Quantizer`].
    The same embeddings, seed and machine give the same codes. The caller's random state is neither read nor changed.

    Args:
        level_sizes (`Sequence[int]`):
            Number of codes at each level, first level first. None may exceed the number of items given to [`fit`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of initial weights, batches, initial codebooks and restarted codes.
        latent_dim (`int`, *optional*, defaults to `32`):
            Width of the space that is quantised.
        hidden_sizes (`Sequence[int]`, *optional*, defaults to `(256, 128)`):
            Widths of the encoder's hidden layers; the decoder has them in reverse.
        num_epochs (`int`, *optional*):
            Epochs with quantisation. Defaults to 100, or to as many as make 3,000 steps if those are fewer (more than
            15,000 items at the default batch size), at least 1.
        warmup_epochs (`int`, *optional*):
            Epochs of the autoencoder alone, before the codebooks start. Defaults to 20, limited likewise by 600 steps.
        batch_size (`int`, *optional*, defaults to `512`):
            Items in a step.
        learning_rate (`float`, *optional*, defaults to `1e-3`):
            Peak learning rate of AdamW; it decays to zero along a cosine.
        commitment (`float`, *optional*, defaults to `0.25`):
            Weight of the commitment loss, which pulls latents to their codes, relative to the codebook loss, which
            pulls codes to latents, and the reconstruction loss.
        device (`str`, *optional*):
            Device to compute on. Defaults to a GPU if there is one. It is not saved: [`load`] takes it again.

    Attributes:
        history (`list[dict]`):
            For each epoch with quantisation: the mean losses of its steps, and the number of restarted codes a level
            as `revived`.

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
    >>> sorted(quantizer.history[0])
    ['codebook', 'commitment', 'reconstruction', 'revived']
    ```
    """

    file_name = "rqvae.safetensors"
    _autoencoder: _Autoencoder  # from `learn` or `load_state` on

    @checks_types
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
        super().__init__(level_sizes, seed)
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
                f"`warmup_epochs` of at least 0, found {self.settings()}. Leave them out for the defaults."
            )
        self.history: list[dict[str, Any]] = []

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor without the device, which belongs to this machine."""
        return {name: value for name, value in super().settings().items() if name != "device"}

    @property
    def dim(self) -> int:
        return len(self._autoencoder.mean)

    def learn(self, embeddings: np.ndarray) -> list[np.ndarray]:
        """Train the autoencoder alone, start the codebooks by k-means on its latents, and train all of it together."""
        points = torch.from_numpy(embeddings).to(self.device)  # (items, dim)
        # Own generators, because `torch.manual_seed` would also reseed the caller's CUDA generators.
        self._autoencoder = self._new_autoencoder(points.shape[1], torch.Generator().manual_seed(self.seed))
        # One scale for all columns, so that distances keep their proportions.
        self._autoencoder.mean = points.mean(dim=0)
        self._autoencoder.scale = (points - points.mean(dim=0)).square().mean().sqrt().clamp_min(1e-12)
        points = self._autoencoder.standardize(points)
        generator = torch.Generator().manual_seed(self.seed)

        steps = -(-len(points) // self.batch_size)
        warmup_epochs, num_epochs = self.warmup_epochs, self.num_epochs
        if warmup_epochs is None:
            warmup_epochs = max(1, min(MOST_WARMUP_EPOCHS, MOST_WARMUP_STEPS // steps))
        if num_epochs is None:
            num_epochs = max(1, min(MOST_EPOCHS, MOST_STEPS // steps))
        self.history = []
        with progress_bar(total=warmup_epochs + num_epochs, desc="Fitting RQ-VAE", unit="epoch") as progress:
            optimizer, schedule = self._optimizer([], warmup_epochs * steps)
            for _ in range(warmup_epochs):
                self._epoch(points, [], optimizer, schedule, generator)
                progress.update()
            start = ResidualKMeans(self.level_sizes, seed=self.seed).fit(self.project(embeddings)).centroids
            codebooks = [nn.Parameter(torch.from_numpy(level).to(self.device)) for level in start]
            optimizer, schedule = self._optimizer(codebooks, num_epochs * steps)
            for _ in range(num_epochs):
                losses = self._epoch(points, codebooks, optimizer, schedule, generator)
                self.history.append(losses | {"revived": self._revive(codebooks, points, optimizer, generator)})
                progress.update()
        return [codebook.detach().cpu().numpy() for codebook in codebooks]

    @torch.inference_mode()
    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """Latents of embeddings."""
        model, batches = self._autoencoder, torch.from_numpy(embeddings).split(8192)
        latents = [model.encoder(model.standardize(batch.to(self.device))) for batch in batches]
        return np.concatenate([batch.cpu().numpy() for batch in latents])

    @torch.inference_mode()
    def reconstruct(self, vectors: np.ndarray) -> np.ndarray:
        """Embeddings that the decoder makes of latents."""
        model = self._autoencoder
        return (model.decoder(torch.from_numpy(vectors).to(self.device)) * model.scale + model.mean).cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Weights of encoder and decoder, mean and scale of the embeddings."""
        return {name: tensor.cpu().numpy() for name, tensor in self._autoencoder.state_dict().items()}

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the autoencoder on `device`."""
        self._autoencoder = self._new_autoencoder(len(arrays["mean"]), torch.Generator())
        self._autoencoder.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})

    def _new_autoencoder(self, dim: int, generator: torch.Generator) -> _Autoencoder:
        return _Autoencoder([dim, *self.hidden_sizes, self.latent_dim], generator).to(self.device)

    def _optimizer(self, codebooks: list[nn.Parameter], steps: int):
        weights = list(self._autoencoder.parameters())
        groups = [{"params": weights, "weight_decay": 1e-4}, {"params": codebooks, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.learning_rate)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))

    def _epoch(
        self, points: torch.Tensor, codebooks: list[nn.Parameter], optimizer, schedule, generator: torch.Generator
    ) -> dict[str, float]:
        """Train on every item once; mean losses of the steps."""
        order = torch.randperm(len(points), generator=generator).to(self.device)
        losses = []
        for rows in order.split(self.batch_size):
            losses.append(self._step(points[rows], codebooks, optimizer))
            schedule.step()
        # The only wait for the device: reading a loss in every step would leave it idle between steps.
        means = torch.stack(losses).cpu().double().mean(dim=0).tolist()
        if not np.isfinite(means[0]):
            raise ValueError(
                f"Expected training to lower the reconstruction loss, but it is {means[0]}. "
                f"Lower `learning_rate` (now {self.learning_rate})."
            )
        return dict(zip(LOSSES, means))

    def _step(self, batch: torch.Tensor, codebooks: list[nn.Parameter], optimizer) -> torch.Tensor:
        """Update the weights once; losses of shape `(3,)` on the device, in the order of `LOSSES`."""
        latents = self._autoencoder.encoder(batch)  # (batch, latent)
        quantized = torch.zeros_like(latents)
        codebook_loss, commitment_loss = latents.new_zeros(()), latents.new_zeros(())
        for codebook in codebooks:
            # Detached, so that no level's loss moves the codes of earlier levels.
            residual = latents - quantized.detach()
            chosen = codebook[_nearest(residual, codebook)]
            codebook_loss = codebook_loss + nn.functional.mse_loss(chosen, residual.detach())
            commitment_loss = commitment_loss + nn.functional.mse_loss(residual, chosen.detach())
            quantized = quantized + chosen
        # Straight-through estimator: the decoder gets the quantised latents, the encoder the gradient as if it had got
        # the latents themselves, because the choice of a code has none.
        decoded = self._autoencoder.decoder(latents + (quantized - latents).detach() if codebooks else latents)
        reconstruction_loss = nn.functional.mse_loss(decoded, batch)
        loss = reconstruction_loss + codebook_loss + self.commitment * commitment_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return torch.stack([reconstruction_loss, codebook_loss, commitment_loss]).detach()

    @torch.no_grad()
    def _revive(
        self, codebooks: list[nn.Parameter], points: torch.Tensor, optimizer, generator: torch.Generator
    ) -> list[int]:
        """
        Restart codes that no item takes; how many of each level.

        A dead code gets no gradient, so it would stay dead. It moves to an item's residual, drawn with a probability
        that grows with the residual's distance from its present code, as in k-means++: where more codes help most.
        """
        residual, revived = self._autoencoder.encoder(points), []
        for codebook in codebooks:
            chosen = _nearest(residual, codebook)
            dead = torch.bincount(chosen, minlength=len(codebook)) == 0
            num_dead = int(dead.sum())
            if num_dead:
                misfit = (residual - codebook[chosen]).square().sum(dim=1).double().cpu() + 1e-12
                codebook[dead] = residual[misfit.multinomial(num_dead, generator=generator).to(residual.device)]
                for moment in optimizer.state[codebook].values():
                    if moment.shape == codebook.shape:  # moments of Adam that belong to the code's old place
                        moment[dead] = 0
                chosen = _nearest(residual, codebook)
            residual = residual - codebook[chosen]
            revived.append(num_dead)
        return revived


class _Autoencoder(nn.Module):
    """Encoder and decoder of equal widths in reverse, with mean and scale of the embeddings."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = _perceptron(sizes, generator)
        self.decoder = _perceptron(sizes[::-1], generator)
        self.register_buffer("mean", torch.zeros(sizes[0]))
        self.register_buffer("scale", torch.ones(()))

    def standardize(self, points: torch.Tensor) -> torch.Tensor:
        return (points - self.mean) / self.scale


def _perceptron(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    layers = [nn.utils.skip_init(nn.Linear, width, next_width) for width, next_width in zip(sizes[:-1], sizes[1:])]
    for layer in layers:  # the initialisation of `nn.Linear`, which takes no generator
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        nn.init.uniform_(layer.bias, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=generator)
    return nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.ReLU())), layers[-1])


def _nearest(points: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Find the code nearest to each point, of shape `(points,)`; a point's own norm is the same for all codes."""
    with torch.no_grad():
        return (codebook.square().sum(dim=1) - 2 * points @ codebook.T).argmin(dim=1)
