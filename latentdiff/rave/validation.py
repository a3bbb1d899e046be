"""How well a RAVE reconstructs held-out sound, and along which directions its latents vary.

Shapes: B batch, D latent dimensions, T frames, N samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.rave.dataset import FixedCrops

if TYPE_CHECKING:
    from rave import RAVE

FIDELITIES = (0.8, 0.9, 0.95, 0.99)
"""Shares of variance for which the number of principal directions is reported."""
_BATCH = 8
"""Crops; fixed, so that the sums do not depend on the training's settings."""


@dataclass
class LatentSpread:
    """Mean and covariance of latents, summed up batch by batch.

    In double precision: subtracting the squared mean cancels most digits of the covariance.
    """

    frames: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Sum of the frames, [D]."""
    products: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Sum of the outer products of the frames, [D, D]."""

    def add(self, latents: Tensor) -> None:
        """Latents [B, D, T]."""
        rows = latents.transpose(1, 2).flatten(0, 1).cpu().double()
        self.frames += len(rows)
        self.total = self.total + rows.sum(0)
        self.products = self.products + rows.T @ rows

    def principal(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean [D], principal directions as rows [D, D], cumulative share of variance [D]."""
        mean = self.total / self.frames
        covariance = self.products / self.frames - torch.outer(mean, mean)
        variance, directions = torch.linalg.eigh(covariance)
        # eigh sorts upwards and may return tiny negative values for directions without variance.
        variance = variance.flip(0).clamp(min=0)
        share = variance.cumsum(0) / variance.sum().clamp(min=1e-30)
        return mean, directions.flip(1).T, share


@dataclass(frozen=True)
class RaveValidation:
    """Results of one pass over the held-out crops."""

    distance: float
    """RAVE's multi-scale spectral distance between original and reconstruction; >= 0, lower is
    better."""
    fidelity: dict[float, int]
    """Share of the latents' variance (0..1) -> number of principal directions that hold it; empty
    where RAVE keeps no principal directions (spherical latents)."""
    original: Tensor
    """The first crops [B, channels, N], for listening."""
    reconstruction: Tensor
    """Reconstruction of the same crops, [B, channels, N]."""


def reconstruct(model: RAVE, audio: Tensor) -> tuple[Tensor, Tensor]:
    """[B, channels, N] -> (latents [B, D, T], audio [B, channels, N]).

    Of a variational encoder the posterior's mean is decoded, not a sample.
    """
    from rave import blocks

    encoded = model.encode(audio)
    if isinstance(model.encoder, blocks.VariationalEncoder):
        latents = decoded = encoded.chunk(2, 1)[0]
    else:
        latents, decoded = encoded, model.encoder.reparametrize(encoded)[0]
    return latents, model.decode(decoded)[..., : audio.shape[-1]]


def validate(
    model: RAVE, crops: FixedCrops, *, seed: int, also: FixedCrops | None = None
) -> RaveValidation:
    """Reconstruct `crops`; update the model's buffers latent_pca, latent_mean and fidelity.

    `also`: crops whose latents count for the principal directions, but not for the distance. The
    same crops give the same numbers, and no random generator is disturbed. Raises UserError where
    the model's output is not finite. At least one of `crops` must have sound.
    """
    device = model.receptive_field.device
    spread, distances = LatentSpread(), []
    shown: list[Tensor] = []
    training = model.training
    model.eval()
    forked = [device] if device.type == "cuda" else []
    with compat.quiet(), torch.no_grad(), torch.random.fork_rng(devices=forked):
        torch.manual_seed(seed)  # for decoders that add noise
        for audio in _batches(crops, device):
            latents, output = reconstruct(model, audio)
            spread.add(latents)
            if audio.any():  # the distance is relative to the energy of the original
                distances.append(float(sum(model.audio_distance(audio, output).values())))
            if not shown:
                shown = [audio.cpu(), output.cpu()]
        for audio in _batches(also, device) if also else ():
            spread.add(reconstruct(model, audio)[0])
    model.train(training)
    assert distances, "`checks.check` refuses silent crops"
    distance = sum(distances) / len(distances)
    if not torch.isfinite(torch.tensor(distance)):
        raise UserError(
            "RAVE's reconstruction is no longer finite",
            why="the training diverged",
            do_this="start again with a smaller rave.beta, another seed, or rave.precision=32.",
        )
    return RaveValidation(distance, _keep(model, spread), *shown)


def _batches(crops: FixedCrops, device: torch.device) -> Iterable[Tensor]:
    for audio in DataLoader(crops, _BATCH, generator=torch.Generator()):
        yield audio.to(device)


def _keep(model: RAVE, spread: LatentSpread) -> dict[float, int]:
    """Write the principal directions into the buffers that `rave export` reads."""
    mean, directions, share = spread.principal()
    if model.latent_pca.shape != directions.shape:
        # Some encoders put out another number of dimensions than RAVE's buffers are made for.
        return {}
    model.latent_mean.copy_(mean)
    model.latent_pca.copy_(directions)
    model.fidelity.copy_(share)
    return {level: int((share < level).sum()) + 1 for level in FIDELITIES}
