"""Raw latents <=> final latents, which the diffusion model sees: few directions, scaled.

Shapes: C kept directions, D latent dimensions of the codec, T latent frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from latentdiff.latents.settings import Scaling
from latentdiff.latents.statistics import Keep, LatentStatistics

Fill = Literal["mean", "noise"]


class Whitening(nn.Module):
    """Rotates to the principal directions, keeps some of them, and scales each.

    Not trained: its four tensors are buffers, so that `.to` moves and `state_dict` saves them.
    `whiten(unwhiten(x)) == x` up to rounding; the other way round, whatever lies outside the kept
    directions is lost.
    """

    mean: Tensor
    """[D]."""
    directions: Tensor
    """[C, D], orthonormal rows."""
    scale: Tensor
    """[C], the divisor of each direction."""
    variance: Tensor
    """[C], variance of the final latents of the training split; averages to 1."""

    def __init__(
        self, mean: Tensor, directions: Tensor, scale: Tensor, variance: Tensor | None = None
    ) -> None:
        """`variance` None: ones, that is, `scale` is each direction's standard deviation."""
        super().__init__()
        assert directions.shape == (len(scale), len(mean)), "directions must be [C, D]"
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.register_buffer("scale", scale)
        self.register_buffer("variance", torch.ones_like(scale) if variance is None else variance)

    @classmethod
    def from_statistics(
        cls, statistics: LatentStatistics, keep: Keep = "auto", scaling: Scaling = "unit"
    ) -> Whitening:
        """Fit to the training split.

        unit: each direction to variance 1. posterior: each in units of the posterior's own
        standard deviation there, then all by one factor. global: all by one factor. The factor
        makes the mean variance 1. Raises UserError if `keep` or `scaling` cannot be met.
        """
        chosen = statistics.kept(keep)
        variances, directions = (x[chosen] for x in statistics.principal())
        # `units` is the variance that becomes 1 in each direction.
        if scaling == "unit":
            units = variances
        elif scaling == "global":
            units = np.full(len(chosen), variances.mean())
        else:
            # variance / ratio is the posterior's variance; a direction's final variance is then
            # its ratio over the mean ratio, which averages to 1 over the directions.
            ratio = statistics.signal_to_noise()[chosen]
            units = variances / ratio * ratio.mean()
        # Computed in float64 and rounded once: the statistics' means can be large beside their
        # spread, and eigenvalues of the last kept directions are small beside the first.
        tensors = (statistics.mean, directions, units**0.5, variances / units)
        return cls(*(torch.as_tensor(x, dtype=torch.float32) for x in tensors))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Whitening:
        """Load a `state_dict`; old ones have no variance, which was always 1 then."""
        return cls(state["mean"], state["directions"], state["scale"], state.get("variance"))

    @property
    def channels(self) -> int:
        """C."""
        return len(self.scale)

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)

    def whiten(self, z: Tensor) -> Tensor:
        """Raw latents [..., D, T] => final latents [..., C, T]."""
        return (self.directions @ (z - self.mean[:, None])) / self.scale[:, None]

    def unwhiten(
        self, x: Tensor, fill: Fill = "mean", generator: torch.Generator | None = None
    ) -> Tensor:
        """Final latents [..., C, T] => raw latents [..., D, T].

        `fill` sets the directions that were left out: to their mean, or to unit-variance noise
        (seeded by `generator`), as an exported RAVE does.
        """
        z = self.directions.T @ (x * self.scale[:, None]) + self.mean[:, None]
        if fill == "noise":
            device = x.device if generator is None else generator.device
            shape = (*x.shape[:-2], self.dimensions, x.shape[-1])
            noise = torch.randn(shape, generator=generator, device=device, dtype=x.dtype)
            noise = noise.to(x.device)
            # Only the part of the noise that is orthogonal to the kept directions.
            z = z + noise - self.directions.T @ (self.directions @ noise)
        return z
