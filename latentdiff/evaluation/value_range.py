"""How far latents reach, and what a limit would cut off them.

Shapes: C channels, T frames of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 4.0
"""Standard deviations beyond which values are counted."""
UNIT = 1.0
"""Where sound, and nothing else, is full scale."""


@dataclass(frozen=True)
class Cut:
    """What clipping would change."""

    values: float
    """Share of all values."""
    frames: float
    """Share of the frames in which at least one value lies beyond."""


@dataclass(frozen=True)
class ValueRange:
    """Of latents, all channels together."""

    minimum: float
    maximum: float
    mean: float
    std: float
    values: int
    beyond_unit: Cut
    """Outside -1..1."""
    beyond_far: Cut
    """Farther than FAR deviations from the mean, each channel by its own."""

    @property
    def noise_reaches(self) -> float:
        """The largest magnitude among so many values of unit noise: half of all draws exceed it."""
        # float64's inverse of erf ends at 1 - 1e-16.
        share = max(1 - 0.5 ** (1 / self.values), 1e-15)
        return math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - share, dtype=torch.float64)))


def measure(pieces: Iterable[Tensor], mean: Tensor, std: Tensor) -> ValueRange:
    """Of pieces [C, T], in one pass; `mean` and `std` [C] are those of each channel."""
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
        Cut(*counted[:2].tolist()),
        Cut(*counted[2:].tolist()),
    )
