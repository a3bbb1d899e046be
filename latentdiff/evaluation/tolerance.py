"""How much noise on its latents a decoder bears, and how much a model leaves.

Latents are x + k * noise with unit noise, so k is sigma / alpha and log-SNR is -2 ln k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from latentdiff.diffusion.loss import Objective

NOISE_LADDER = "noise-ladder"
"""The diagnosis that measures it, and its folder and JSON file in a run."""
RUNGS = (0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""k, in deviations of whitened latents."""
HALF = 0.5
"""Of the distance that white noise makes in place of the latents."""
AUDIBLE_DB = 0.2
"""A decoder of which white noise changes the sound by less makes the same of any latents."""

Criterion = Literal["half-way to noise", "the codec's own error", "nothing is heard of latents"]


@dataclass(frozen=True)
class Tolerance:
    """The k at which the sound breaks: the noise is then the worst that is wrong with it."""

    std: float | None
    """k; None where no rung breaks it, or nothing is heard of latents at all."""
    limit: float
    """Spectral distance, in dB, from the sound without noise."""
    criterion: Criterion
    """Of the two limits the one that is reached first, if any can be."""

    @property
    def logsnr(self) -> float | None:
        """Of latents with so much noise."""
        return None if self.std is None else -2 * math.log(self.std)


def tolerance(
    rungs: Sequence[float], distances: Sequence[float], of_noise: float, of_codec: float | None
) -> Tolerance:
    """From distances (dB) to the sound without noise at rising k.

    The limit is half of `of_noise`, the distance of the sound of white noise; or `of_codec`, that
    between recordings and what the codec makes of them, where that is known and less.
    """
    limit = HALF * of_noise
    criterion: Criterion = "half-way to noise"
    if of_noise < AUDIBLE_DB:
        return Tolerance(None, limit, "nothing is heard of latents")
    if of_codec is not None and of_codec < limit:
        limit, criterion = of_codec, "the codec's own error"
    return Tolerance(crossing([0.0, *rungs], [0.0, *distances], limit), limit, criterion)


def crossing(x: Sequence[float], y: Sequence[float], limit: float) -> float | None:
    """Where y first rises above the limit, on a straight line between neighbours.

    None where it never does, or is above from the beginning.
    """
    above = next((k for k, value in enumerate(y) if value > limit), 0)
    if above == 0:
        return None
    share = (limit - y[above - 1]) / (y[above] - y[above - 1])
    return x[above - 1] + share * (x[above] - x[above - 1])


def error_of(objective: Objective, loss: float, logsnr: float) -> float:
    """Root mean square error of z_0 behind a mean loss at a level.

    Exact for mse; under l1 errors are taken for normal, under huber for smaller than its delta.
    """
    level = torch.tensor([logsnr], dtype=torch.float64)
    plain = loss / float(objective.weight(level))
    error = {
        "mse": math.sqrt(plain),
        "l1": plain * math.sqrt(math.pi / 2),
        "huber": math.sqrt(2 * plain),
    }[objective.kind]
    return error * float(objective.scale(level))
