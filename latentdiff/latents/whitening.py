"""Raw latents <=> what the diffusion model sees: few directions, each of unit variance.

Shapes: C kept directions, D latent dimensions of the codec, T latent frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from latentdiff.latents.statistics import Keep, LatentStatistics

Fill = Literal["mean", "noise"]


class Whitening(nn.Module):
    """Rotates to principal directions, keeps some, scales each to unit variance.

    Not trained: its three tensors are buffers, so that it moves with `.to` and is saved by
    `state_dict`. `whiten(unwhiten(x)) == x` up to rounding; the other way round what lies outside
    the kept directions is lost.
    """

    mean: Tensor
    """[D]."""
    directions: Tensor
    """[C, D], orthonormal rows."""
    scale: Tensor
    """[C], standard deviation along each direction."""

    def __init__(self, mean: Tensor, directions: Tensor, scale: Tensor) -> None:
        super().__init__()
        assert directions.shape == (len(scale), len(mean)), "directions must be [C, D]"
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.register_buffer("scale", scale)

    @classmethod
    def from_statistics(cls, statistics: LatentStatistics, keep: Keep = "auto") -> Whitening:
        """Fit to the training split. Raises UserError where `keep` cannot be met."""
        chosen = statistics.kept(keep)
        variances, directions = statistics.principal()
        return cls(
            torch.as_tensor(statistics.mean, dtype=torch.float32),
            torch.as_tensor(directions[chosen], dtype=torch.float32),
            torch.as_tensor(variances[chosen] ** 0.5, dtype=torch.float32),
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Whitening:
        """From what `state_dict` gave."""
        return cls(state["mean"], state["directions"], state["scale"])

    @property
    def channels(self) -> int:
        """C."""
        return len(self.scale)

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def fingerprint(self) -> str:
        """sha256 of the tensors: a network belongs to one whitening."""
        digest = hashlib.sha256()
        for tensor in (self.mean, self.directions, self.scale):
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def whiten(self, z: Tensor) -> Tensor:
        """Raw latents [..., D, T] => final latents [..., C, T]."""
        return (self.directions @ (z - self.mean[:, None])) / self.scale[:, None]

    def unwhiten(
        self, x: Tensor, fill: Fill = "mean", generator: torch.Generator | None = None
    ) -> Tensor:
        """Final latents [..., C, T] => raw latents [..., D, T].

        `fill` decides the directions that were left out: their mean, or unit-variance noise, which
        is what the decoder of an exported RAVE is given there (seeded by `generator`).
        """
        z = self.directions.T @ (x * self.scale[:, None]) + self.mean[:, None]
        if fill == "noise":
            device = x.device if generator is None else generator.device
            shape = (*x.shape[:-2], self.dimensions, x.shape[-1])
            noise = torch.randn(shape, generator=generator, device=device, dtype=x.dtype)
            noise = noise.to(x.device)
            z = z + noise - self.directions.T @ (self.directions @ noise)
        return z
