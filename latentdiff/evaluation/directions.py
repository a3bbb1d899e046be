"""The latents a model is trained on, along each of their principal directions.

Shapes: C channels of the network, D latent dimensions of the codec, T frames of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from latentdiff.evaluation import whiteness
from latentdiff.latents import statistics
from latentdiff.latents.whitening import Whitening

LatentFile = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Latents [D, T] and the posterior's standard deviation [D, T]; None = not known."""
WHITE_GAIN = 6.0
"""Variance of the second differences of white noise of variance 1."""
WHITE_ROWS = 35 / 18
"""Second differences of white noise that tell as much of a variance as one independent value: 1
plus twice the sum of their squared autocorrelations, 4/6 and 1/6."""
FEWEST_ROWS = 4.0
"""Independent values for each direction below which the smallest variance of all is chance."""
ENOUGH_ROWS = 64.0
"""Independent values for each direction from which further files make a group of their own."""


@dataclass(frozen=True)
class Directions:
    """Measured on the training files. Lists of D begin with the strongest direction."""

    variance: list[float]
    """[D], of the posterior means."""
    floor: float | None
    """Variance of the quickest changes over that of the posterior's draws, in the direction where
    this is smallest. At least 1 for draws, as their noise is in every direction; None = the
    posterior is not known, or there are too few frames."""
    white: list[bool]
    """[D], whether the direction looks like white noise over time."""
    kept_white: list[bool]
    """[C], the same for the directions that the model uses."""
    taken: list[float]
    """[C], variance over the variance the model assumes; 1 for latents it was made for."""
    taken_if_drawn: list[float] | None
    """[C], the same for draws from the posterior; None = not known."""

    @property
    def weak(self) -> slice:
        """The weaker half of D: it carries no sound if the codec has dimensions to spare."""
        return slice(len(self.variance) // 2, None)


def measure(files: Sequence[LatentFile], whitening: Whitening) -> Directions:
    """Measure a model's training files, reading them several times in constant memory."""
    fitted = statistics.fit(files)
    variance, directions = fitted.principal()
    rotation = torch.from_numpy(np.ascontiguousarray(directions)).float()
    noise = fitted.posterior_variance
    return Directions(
        variance.tolist(),
        None if noise is None else _floor(files),
        whiteness.white(rotation @ z for z in _tensors(files)).tolist(),
        whiteness.white(whitening.whiten(z) for z in _tensors(files)).tolist(),
        _taken(whitening, fitted.covariance),
        None if noise is None else _taken(whitening, fitted.covariance + np.diag(noise)),
    )


def _floor(files: Sequence[LatentFile]) -> float | None:
    """The median over groups of files, so that a few files of another scale do not matter."""
    floors, group = [], _Changes()
    for latents, std in files:
        assert std is not None  # the posterior is known
        group.add(np.asarray(latents, np.float64), np.asarray(std, np.float64))
        if group.rows_of_each >= ENOUGH_ROWS:
            floors.append(group.floor())
            group = _Changes()
    if not floors and group.rows_of_each >= FEWEST_ROWS:
        floors = [group.floor()]
    return median(floors) if floors else None


class _Changes:
    """Sums over second differences, which remove what is slow and pass white noise."""

    def __init__(self) -> None:
        self.quick: NDArray[np.float64] = np.zeros((1, 1))
        self.drawn: NDArray[np.float64] = np.zeros(1)
        self.rows = 0

    def add(self, latents: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        """Add a file's latents and posterior deviations [D, T]."""
        change = np.diff(latents, n=2, axis=1)
        self.quick = self.quick + change @ change.T / WHITE_GAIN
        self.drawn = self.drawn + np.square(std).mean(axis=1) * change.shape[1]
        self.rows += change.shape[1]

    @property
    def rows_of_each(self) -> float:
        """Independent values for each direction."""
        return self.rows / WHITE_ROWS / len(self.drawn)

    def floor(self) -> float:
        """The smallest generalised eigenvalue of the covariances of changes and of draws.

        Of D variances estimated from n values each, the smallest comes out at (1 - sqrt(D / n))^2
        where all are 1 (Bai and Yin 1993, Limit of the smallest eigenvalue of a large dimensional
        sample covariance matrix).
        """
        scale = 1 / np.sqrt(np.maximum(self.drawn, 1e-30))
        smallest = np.linalg.eigvalsh(self.quick * scale[:, None] * scale)[0]
        return float(smallest / (1 - self.rows_of_each**-0.5) ** 2)


def _taken(whitening: Whitening, covariance: NDArray[np.float64]) -> list[float]:
    """[C], variances of whitened latents of this covariance, over those the whitening promises."""
    scale, promised = (x.double().cpu().numpy() for x in (whitening.scale, whitening.variance))
    seen = whitening.directions.double().cpu().numpy() / scale[:, None]
    return list(np.einsum("cd,de,ce->c", seen, covariance, seen) / promised)


def _tensors(files: Sequence[LatentFile]) -> Iterable[torch.Tensor]:
    return (torch.from_numpy(np.array(z, dtype=np.float32)) for z, _ in files)
