"""The Frechet distance between sets of feature vectors.

Shapes: n windows, F features each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set of feature vectors."""

    mean: Tensor
    """[F], float64."""
    covariance: Tensor
    """[F, F], float64."""

    @classmethod
    def fit(cls, features: Tensor) -> Gaussian:
        """Fit features [n, F]. Raises ValueError for fewer than 2 windows.

        The covariance is not shrunk: shrinkage would move every set towards unstructured noise,
        small sets most. So the distance is biased upwards for small n; sets of equal n have nearly
        the same bias, which cancels in the score.
        """
        if len(features) < 2:
            raise ValueError(f"a covariance needs at least 2 windows, not {len(features)}")
        x = features.double()
        mean = x.mean(dim=0)
        x = x - mean
        return cls(mean, x.T @ x / len(x))


def distance(a: Gaussian, b: Gaussian) -> float:
    """Frechet distance (squared 2-Wasserstein) of two Gaussians: at least 0, in squared units.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017,
    arXiv 1706.08500, eq. 6).
    """
    shift = (a.mean - b.mean).square().sum()
    spread = a.covariance.trace() + b.covariance.trace()
    # tr((S_a S_b)^(1/2)) is the sum of the singular values of S_a^(1/2) S_b^(1/2): these exist for
    # singular covariances (fewer windows than features) too, where a matrix root of S_a S_b is
    # unstable.
    shared = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    # Equal sets come out a rounding error below zero.
    return max(0.0, float(shift + spread - 2 * shared))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
