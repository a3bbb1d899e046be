"""The noise tolerance of a decoder, measured by `diagnose noise-ladder`, and what a model leaves.

Latents are x + k * noise with unit noise, so k is sigma / alpha and log-SNR is -2 ln k.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter

from latentdiff.diffusion.loss import Objective
from latentdiff.runs import Run

NOISE_LADDER = "noise-ladder"
"""The question that measures the tolerance; its folder and JSON file in a run."""
RUNGS = (0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""k, in standard deviations of whitened latents."""
HALF = 0.5
"""Share of the spectral distance that white noise makes in place of the latents."""
AUDIBLE_DB = 0.2
"""If white noise changes the sound by less, the decoder ignores its latents."""

Criterion = Literal["half-way to noise", "the codec's own error", "nothing is heard of latents"]


@dataclass(frozen=True)
class Tolerance:
    """The k at which the sound breaks: there noise becomes the largest error."""

    std: float | None
    """k; None if no rung breaks the sound, or the decoder ignores its latents."""
    limit: float
    """Spectral distance in dB from the sound without noise at that k."""
    criterion: Criterion
    """Which of the two limits is smaller, if either can be reached."""

    @property
    def logsnr(self) -> float | None:
        """Log-SNR of latents with that much noise."""
        return None if self.std is None else -2 * math.log(self.std)


@dataclass(frozen=True)
class LadderSummary:
    """The part of `noise-ladder.json` that training and other questions read."""

    tolerance_std: float | None
    """k, in standard deviations of the whitened latents; None as in `Tolerance`."""
    tolerance_logsnr: float | None
    kept: int
    """Number of directions that the model uses."""
    dimensions: int
    """Latent dimensions of the codec."""


def path_of(run: Run) -> Path:
    """Path of the results of `diagnose noise-ladder`."""
    return run.diagnosis / NOISE_LADDER / f"{NOISE_LADDER}.json"


def read(run: Run) -> LadderSummary | None:
    """Results of the run's noise ladder; None if it was not run or its file is damaged."""
    try:
        values = json.loads(path_of(run).read_text(encoding="utf-8"))
        return TypeAdapter(LadderSummary).validate_python(values)
    except (OSError, ValueError):
        return None


def tolerance(
    rungs: Sequence[float], distances: Sequence[float], of_noise: float, of_codec: float | None
) -> Tolerance:
    """Find the tolerance from distances (dB) to the sound without noise, at rising k.

    The limit is half of `of_noise`, the distance that white noise in place of the latents makes, or
    `of_codec`, the distance between recordings and their reconstructions, if known and smaller.
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

    None if it never does, or starts above the limit.
    """
    above = next((k for k, value in enumerate(y) if value > limit), 0)
    if above == 0:
        return None
    share = (limit - y[above - 1]) / (y[above] - y[above - 1])
    return x[above - 1] + share * (x[above] - x[above - 1])


def error_of(objective: Objective, loss: float, logsnr: float) -> float:
    """The root mean square error of z_0 that corresponds to a mean loss at a noise level.

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
