"""The latents a model is trained on, along each of their principal directions.

Shapes: C channels of the network, D latent dimensions of the codec, T frames of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from latentdiff.evaluation import whiteness
from latentdiff.latents import statistics
from latentdiff.latents.whitening import Whitening

LatentFile = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Latents [D, T] and the posterior's standard deviation [D, T]; None = not known."""


@dataclass(frozen=True)
class Directions:
    """Measured on the training files. Lists of D begin with the strongest direction."""

    variance: list[float]
    """[D], of the posterior means."""
    posterior: list[float] | None
    """[D], the posterior's own variance; None = not known."""
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
        None if noise is None else (directions**2 @ noise).tolist(),
        whiteness.white(rotation @ z for z in _tensors(files)).tolist(),
        whiteness.white(whitening.whiten(z) for z in _tensors(files)).tolist(),
        _taken(whitening, fitted.covariance),
        None if noise is None else _taken(whitening, fitted.covariance + np.diag(noise)),
    )


def _taken(whitening: Whitening, covariance: NDArray[np.float64]) -> list[float]:
    """[C], variances of whitened latents of this covariance, over those the whitening promises."""
    scale, promised = (x.double().cpu().numpy() for x in (whitening.scale, whitening.variance))
    seen = whitening.directions.double().cpu().numpy() / scale[:, None]
    return list(np.einsum("cd,de,ce->c", seen, covariance, seen) / promised)


def _tensors(files: Sequence[LatentFile]) -> Iterable[torch.Tensor]:
    return (torch.from_numpy(np.array(z, dtype=np.float32)) for z, _ in files)
