"""Latents along each of their principal directions: sound, or noise that nothing can learn.

Shapes: D directions, falling in variance, L lags, T frames of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.evaluation import whiteness
from latentdiff.latents.statistics import LEAST_BITS, RANK_TOLERANCE, LatentStatistics

LAGS = 64
"""Frames up to which a correlation time is looked for."""
NORMAL_WITHIN = math.erf(1 / math.sqrt(2))
"""Share of normal values that lie within one deviation of their mean: 0.683."""
NORMAL_KURTOSIS = 0.5
"""|excess kurtosis| up to which values are held to be normal; latents of sound have 2 and more."""

Pieces = Callable[[], Iterable[NDArray[np.floating]]]
"""Raw latents [D, T], piece by piece, from the first again at each call."""


@dataclass(frozen=True)
class Shape:
    """How values move along each direction; [D] but for the autocorrelation."""

    variance: Tensor
    autocorrelation: Tensor
    """[L, D], at lags of 1, 2, ... frames."""
    kurtosis: Tensor
    """Excess: 0 for a normal distribution."""
    frames: int

    @property
    def correlation_time(self) -> Tensor:
        """[D] frames after which the autocorrelation is below 1/e; L + 1 where it never is.

        Between lags on a straight line, from 1 at lag 0.
        """
        limit = math.exp(-1)
        course = torch.cat([torch.ones_like(self.variance)[None], self.autocorrelation])
        below = course < limit
        last = torch.full_like(self.variance, len(course))
        after = torch.where(below.any(dim=0), below.int().argmax(dim=0), last.long())
        there = after.clamp(max=len(course) - 1)[None]
        high, low = course.gather(0, there - 1)[0], course.gather(0, there)[0]
        crossing = (there[0] - 1) + (high - limit) / (high - low).clamp(min=1e-12)
        return torch.where(below.any(dim=0), crossing, last)

    @property
    def noise(self) -> Tensor:
        """[D] bool: white along time and normal, as what a VAE draws from its posterior is.

        Either alone is no proof: frames follow each other slowly, and few of them look normal.
        """
        white = whiteness.is_white(self.autocorrelation, self.frames)
        return white & (self.kurtosis.abs() < NORMAL_KURTOSIS)


@dataclass(frozen=True)
class Profile:
    """Of the latents as they are stored, and of draws from their posterior."""

    stored: Shape
    within: Tensor
    """[D] share of frames within one deviation of the mean; no single outlier can move it."""
    posterior: Tensor | None
    """[D], the posterior's own variance, on average; None = not known."""

    @property
    def bits(self) -> Tensor | None:
        """[D] that the encoder sends a frame (see `LatentStatistics.signal_to_noise`)."""
        if self.posterior is None:
            return None
        return 0.5 * torch.log2(1 + self.stored.variance / self.posterior.clamp(min=1e-30))

    @property
    def carrying(self) -> Tensor:
        """[D] bool: carries sound. Without a posterior: all that is not noise."""
        return ~self.stored.noise if self.bits is None else self.bits > LEAST_BITS

    @cached_property
    def drawn(self) -> Shape | None:
        """What the latents become where each is drawn from its posterior instead of its mean.

        Closed forms: noise of variance n that knows nothing of its neighbours, added to a signal of
        variance s, leaves s / (s + n) of the autocorrelation and the square of that of the excess
        kurtosis. Where n follows the sound, the kurtosis comes out larger. None without posterior.
        """
        if self.posterior is None:
            return None
        stored, total = self.stored, self.stored.variance + self.posterior
        share = stored.variance / total.clamp(min=1e-30)
        return Shape(
            total, stored.autocorrelation * share, stored.kurtosis * share**2, stored.frames
        )

    @property
    def unlearnable(self) -> Tensor:
        """[D] share of the variance that nothing can learn: of draws, or of what is stored."""
        if self.posterior is None:
            return self.stored.noise.double()
        return self.posterior / (self.stored.variance + self.posterior).clamp(min=1e-30)


def measure(statistics: LatentStatistics, pieces: Pieces) -> Profile:
    """Of the frames that `statistics` are of, read twice in flat memory."""
    variances, directions = statistics.principal()
    # What rounding leaves of a direction that does not vary has no shape.
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
    stored = Shape(torch.from_numpy(variances.copy()), correlation, kurtosis, frames)
    return Profile(stored, within, posterior)


def _moments(pieces: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """[D] mean fourth power, and share within one deviation, of standardised pieces [D, T]."""
    fourth: Tensor | float = 0.0
    inside: Tensor | float = 0.0
    frames = 0
    for z in pieces:
        fourth = fourth + z.square().square().sum(dim=1)
        inside = inside + (z.abs() < 1).double().sum(dim=1)
        frames += z.shape[1]
    return torch.as_tensor(fourth) / frames, torch.as_tensor(inside) / frames
