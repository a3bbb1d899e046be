"""Latents along each principal direction: sound, or noise that no model can learn.

Shapes: D directions in order of falling variance, L lags, T frames of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.evaluation import whiteness
from latentdiff.latents.statistics import LEAST_BITS, RANK_TOLERANCE, LatentStatistics

LAGS = 64
"""Frames; longer correlation times are not resolved."""
NORMAL_WITHIN = math.erf(1 / math.sqrt(2))
"""Share of a normal distribution within one standard deviation of its mean: 0.683."""
NORMAL_KURTOSIS = 0.5
"""|excess kurtosis| below which values count as normal; latents of sound have 2 or more."""

ReadLatents = Callable[[], Iterable[NDArray[np.floating[Any]]]]
"""Returns raw latents piece by piece, each [D, T]; every call begins with the first again."""


@dataclass(frozen=True)
class DirectionStatistics:
    """Distribution and time structure of the values along each direction."""

    variance: Tensor
    """[D]."""
    autocorrelation: Tensor
    """[L, D], at lags of 1, 2, ... frames."""
    kurtosis: Tensor
    """[D], excess kurtosis: 0 for a normal distribution."""
    frames: int
    """Number of frames that were measured."""

    @property
    def correlation_time(self) -> Tensor:
        """[D] frames after which the autocorrelation falls below 1/e; L + 1 if it never does.

        Interpolated linearly between lags, from 1 at lag 0.
        """
        limit = math.exp(-1)
        curve = torch.cat([torch.ones_like(self.variance)[None], self.autocorrelation])
        below = curve < limit
        last = torch.full_like(self.variance, len(curve))
        after = torch.where(below.any(dim=0), below.int().argmax(dim=0), last.long())
        there = after.clamp(max=len(curve) - 1)[None]
        high, low = curve.gather(0, there - 1)[0], curve.gather(0, there)[0]
        crossing = (there[0] - 1) + (high - limit) / (high - low).clamp(min=1e-12)
        return torch.where(below.any(dim=0), crossing, last)

    @property
    def noise(self) -> Tensor:
        """[D] bool: white over time and normally distributed, as draws from a VAE's posterior are.

        Sound can be either by chance, hardly both.
        """
        white = whiteness.is_white(self.autocorrelation, self.frames)
        return white & (self.kurtosis.abs() < NORMAL_KURTOSIS)


@dataclass(frozen=True)
class Profile:
    """Statistics of the stored latents and of draws from their posterior."""

    stored: DirectionStatistics
    within: Tensor
    """[D], share of frames within one standard deviation of the mean; robust to outliers."""
    posterior: Tensor | None
    """[D], the posterior's own variance, averaged over frames; None = not known."""

    @property
    def bits(self) -> Tensor | None:
        """[D], bits a frame that the encoder sends (see `LatentStatistics.signal_to_noise`)."""
        if self.posterior is None:
            return None
        return 0.5 * torch.log2(1 + self.stored.variance / self.posterior.clamp(min=1e-30))

    @property
    def carrying(self) -> Tensor:
        """[D] bool: the direction carries sound. Without a posterior: it is not noise."""
        return ~self.stored.noise if self.bits is None else self.bits > LEAST_BITS

    @cached_property
    def drawn(self) -> DirectionStatistics | None:
        """Statistics of latents drawn from the posterior instead of taking its mean.

        Closed form: adding independent noise of variance n to a signal of variance s scales the
        autocorrelation by s / (s + n) and the excess kurtosis by the square of that. (If n varies
        with the sound, the true kurtosis is larger.) None without a posterior.
        """
        if self.posterior is None:
            return None
        stored, total = self.stored, self.stored.variance + self.posterior
        share = stored.variance / total.clamp(min=1e-30)
        return DirectionStatistics(
            total, stored.autocorrelation * share, stored.kurtosis * share**2, stored.frames
        )

    @property
    def unlearnable(self) -> Tensor:
        """[D], share of the variance that no model can learn, of draws if there is a posterior."""
        if self.posterior is None:
            return self.stored.noise.double()
        return self.posterior / (self.stored.variance + self.posterior).clamp(min=1e-30)


def measure(statistics: LatentStatistics, pieces: ReadLatents) -> Profile:
    """Measure the latents that `statistics` were taken of, in two passes and constant memory."""
    variances, directions = statistics.principal()
    # A direction that does not vary leaves rounding errors: scaling those up would measure nothing.
    alive = variances > RANK_TOLERANCE * variances[0]
    scale = np.where(alive, np.maximum(variances, 1e-300), np.inf) ** -0.5
    matrix = torch.from_numpy(scale[:, None] * directions)
    centre = torch.from_numpy(statistics.mean)[:, None]

    def standardised() -> Iterable[Tensor]:
        for piece in pieces():
            yield matrix @ (torch.from_numpy(np.array(piece, dtype=np.float64)) - centre)

    correlation, frames = whiteness.autocorrelation(standardised(), range(1, LAGS + 1))
    fourth, within = _moments(standardised())
    posterior = None
    if statistics.posterior_variance is not None:
        posterior = torch.from_numpy(directions**2 @ statistics.posterior_variance)
    kurtosis = torch.where(torch.from_numpy(alive), fourth - 3, torch.zeros_like(fourth))
    stored = DirectionStatistics(torch.from_numpy(variances.copy()), correlation, kurtosis, frames)
    return Profile(stored, within, posterior)


def _moments(pieces: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """[D] mean fourth power and [D] share within one deviation, of standardised pieces [D, T]."""
    fourth: Tensor | float = 0.0
    inside: Tensor | float = 0.0
    frames = 0
    for z in pieces:
        fourth = fourth + z.square().square().sum(dim=1)
        inside = inside + (z.abs() < 1).double().sum(dim=1)
        frames += z.shape[1]
    return torch.as_tensor(fourth) / frames, torch.as_tensor(inside) / frames
