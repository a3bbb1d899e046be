"""The range of latent values, and the share beyond certain limits.

Shapes: C channels, T frames of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 4.0
"""Standard deviations from the mean beyond which values count as far."""
UNIT = 1.0
"""Full scale of audio, which latents need not respect."""


@dataclass(frozen=True)
class Exceedance:
    """Values beyond a limit, which clipping would change."""

    values: float
    """Share of all values, 0..1."""
    frames: float
    """Share of the frames with at least one such value, 0..1."""


@dataclass(frozen=True)
class ValueRange:
    """The range of latents, all channels together."""

    minimum: float
    maximum: float
    mean: float
    std: float
    values: int
    """Number of values."""
    beyond_unit: Exceedance
    """Outside -UNIT..UNIT."""
    beyond_far: Exceedance
    """More than FAR standard deviations from the mean, by each channel's own statistics."""
    noise_reaches: float
    """Median of the largest magnitude among as many values of unit Gaussian noise."""


def measure(pieces: Iterable[Tensor], mean: Tensor, std: Tensor) -> ValueRange:
    """Measure pieces [C, T] in one pass; `mean` and `std` [C] are those of each channel."""
    low, high, total, squares = math.inf, -math.inf, 0.0, 0.0
    values = frames = 0
    beyond = torch.zeros(4, dtype=torch.float64)
    for piece in pieces:
        z = piece.double()
        low, high = min(low, float(z.min())), max(high, float(z.max()))
        total, squares = total + float(z.sum()), squares + float(z.square().sum())
        values, frames = values + z.numel(), frames + z.shape[1]
        outside = (z.abs() > UNIT, (z - mean[:, None]).abs() > FAR * std[:, None])
        beyond += torch.tensor([x.sum() for o in outside for x in (o, o.any(dim=0))]).double()
    counted = beyond / torch.tensor([values, frames, values, frames])
    centre = total / values
    return ValueRange(
        low,
        high,
        centre,
        math.sqrt(max(squares / values - centre**2, 0.0)),
        values,
        Exceedance(*counted[:2].tolist()),
        Exceedance(*counted[2:].tolist()),
        _noise_reaches(values),
    )


def _noise_reaches(values: int) -> float:
    # In float64 the inverse of erf is infinite from 1 - 1e-16 on.
    share = max(1 - 0.5 ** (1 / values), 1e-15)
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - share, dtype=torch.float64)))
