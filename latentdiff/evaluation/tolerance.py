"""How much noise on its latents a decoder tolerates, and how much a model leaves.

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
"""Share of the distance that white noise in place of the latents causes."""
AUDIBLE_DB = 0.2
"""If white noise in place of the latents changes the sound by less, the decoder ignores them."""

Criterion = Literal["half-way to noise", "the codec's own error", "nothing is heard of latents"]


@dataclass(frozen=True)
class Tolerance:
    """The k from which noise on the latents is what most impairs the sound."""

    std: float | None
    """k; None if no rung reaches the limit, or the decoder ignores its latents."""
    limit: float
    """Spectral distance in dB from the sound without noise at that k."""
    criterion: Criterion
    """The lower of the two limits, if the latents are audible at all."""

    @property
    def logsnr(self) -> float | None:
        """log-SNR of latents with noise of this std."""
        return None if self.std is None else -2 * math.log(self.std)


def tolerance(
    rungs: Sequence[float], distances: Sequence[float], of_noise: float, of_codec: float | None
) -> Tolerance:
    """The tolerance, from the distances (dB) to the sound without noise at rising k.

    The limit is half of `of_noise`, the distance of decoded white noise, or the lower `of_codec`,
    the distance between recordings and their reconstructions (None = not known).
    """
    limit = HALF * of_noise
    criterion: Criterion = "half-way to noise"
    if of_noise < AUDIBLE_DB:
        return Tolerance(None, limit, "nothing is heard of latents")
    if of_codec is not None and of_codec < limit:
        limit, criterion = of_codec, "the codec's own error"
    return Tolerance(crossing([0.0, *rungs], [0.0, *distances], limit), limit, criterion)


def crossing(x: Sequence[float], y: Sequence[float], limit: float) -> float | None:
    """The x at which y first rises above the limit, interpolated linearly.

    None if it never does, or is above it from the start.
    """
    above = next((k for k, value in enumerate(y) if value > limit), 0)
    if above == 0:
        return None
    share = (limit - y[above - 1]) / (y[above] - y[above - 1])
    return x[above - 1] + share * (x[above] - x[above - 1])


def error_of(objective: Objective, loss: float, logsnr: float) -> float:
    """RMS error of the estimate of z_0 that a mean loss at one log-SNR corresponds to.

    Exact for mse; assumes normal errors for l1, and errors below its delta for huber.
    """
    level = torch.tensor([logsnr], dtype=torch.float64)
    plain = loss / float(objective.weight(level))
    error = {
        "mse": math.sqrt(plain),
        "l1": plain * math.sqrt(math.pi / 2),
        "huber": math.sqrt(2 * plain),
    }[objective.kind]
    return error * float(objective.scale(level))
