"""The Frechet distance between sets of feature vectors, and the score made of it.

Shapes: n windows, F features of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """The mean and covariance of a set."""

    mean: Tensor
    """[F], float64."""
    covariance: Tensor
    """[F, F], float64."""

    @classmethod
    def fit(cls, features: Tensor) -> Gaussian:
        """To features [n, F], n at least 2.

        The plain covariance, not shrunk: shrinking moves every set towards noise without
        structure, by more the fewer windows there are. The distance is upward biased by finite n
        instead; sets of equal n have (nearly) the same bias, and the score cancels it.
        """
        if len(features) < 2:
            raise ValueError(f"a covariance needs two windows, not {len(features)}")
        x = features.double()
        mean = x.mean(dim=0)
        x = x - mean
        return cls(mean, x.T @ x / len(x))


def distance(a: Gaussian, b: Gaussian) -> float:
    """Frechet distance (squared 2-Wasserstein) of two Gaussians: 0 or more, in squared units.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017,
    arXiv 1706.08500, eq. 6). The trace of the root is the sum of the singular values of
    S_a^(1/2) S_b^(1/2), which exists for singular covariances too.
    """
    shift = (a.mean - b.mean).square().sum()
    spread = a.covariance.trace() + b.covariance.trace()
    shared = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    return max(0.0, float(shift + spread - 2 * shared))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


@dataclass(frozen=True)
class Scale:
    """What a distance is worth: between real sound and noise."""

    floor: float
    """Distance of real sound that the reference does not hold."""
    ceiling: float
    """Distance of matched white noise."""

    @property
    def usable(self) -> bool:
        """Whether noise is told from real sound at all."""
        return self.ceiling > self.floor

    def score(self, distance: float) -> float:
        """(ceiling - distance) / (ceiling - floor), held in 0..1. 1: as near as real sound; 0: as
        far as noise. NaN where the scale is not usable."""
        if not self.usable:
            return float("nan")
        return min(1.0, max(0.0, (self.ceiling - distance) / (self.ceiling - self.floor)))
