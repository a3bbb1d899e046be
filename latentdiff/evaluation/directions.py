"""What latents are like along each of their principal directions.

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

File = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Latents [D, T] and, where it is known, the posterior's standard deviation [D, T]."""


@dataclass(frozen=True)
class Directions:
    """Of the training files. Lists of D run from the strongest direction to the weakest."""

    variance: list[float]
    """[D]."""
    posterior: list[float] | None
    """[D], the posterior's own variance along them; None = not known."""
    white: list[bool]
    """[D]: the direction looks like white noise along time."""
    kept_white: list[bool]
    """[C], of those that the model sees."""
    taken: list[float]
    """[C]: variance over what the model takes it to be; 1 where it sees what it was made for."""
    taken_if_drawn: list[float] | None
    """[C]: the same of draws from the posterior; None = not known."""

    @property
    def weak(self) -> slice:
        """The weaker half of D, which carries no sound in a codec with dimensions to spare."""
        return slice(len(self.variance) // 2, None)


def measure(files: Sequence[File], whitening: Whitening) -> Directions:
    """Of a model's training files, read a few times in flat memory."""
    found = statistics.fit(files)
    variance, directions = found.principal()
    rotation = torch.from_numpy(np.ascontiguousarray(directions)).float()
    noise = found.posterior_variance
    return Directions(
        variance.tolist(),
        None if noise is None else (directions**2 @ noise).tolist(),
        whiteness.white(rotation @ z for z in _tensors(files)).tolist(),
        whiteness.white(whitening.whiten(z) for z in _tensors(files)).tolist(),
        _taken(whitening, found.covariance),
        None if noise is None else _taken(whitening, found.covariance + np.diag(noise)),
    )


def _taken(whitening: Whitening, covariance: NDArray[np.float64]) -> list[float]:
    """[C]: variances of latents of this covariance, over those that the whitening promises."""
    scale, promised = (x.double().cpu().numpy() for x in (whitening.scale, whitening.variance))
    seen = whitening.directions.double().cpu().numpy() / scale[:, None]
    return list(np.einsum("cd,de,ce->c", seen, covariance, seen) / promised)


def _tensors(files: Sequence[File]) -> Iterable[torch.Tensor]:
    return (torch.from_numpy(np.array(z, dtype=np.float32)) for z, _ in files)
