"""Whether condition features belong to the latents they lie beside.

Shapes: C latent channels, K condition features, T frames of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BLOCKS = 8
"""Parts of each file; each in turn is predicted from what was fitted on the others."""
RIDGE = 0.3
"""In units of the features' mean variance: a handful of files must not be learned by heart."""
DISPLACEMENTS = 7
"""Of the features against the latents, equally spaced around each file."""
LEAST = 0.02
"""Share of the variance below which features are held to tell nothing."""
ABOVE = 1.5
"""By which factor the right place must exceed the best of the wrong ones."""

File = tuple[Tensor, Tensor]
"""Latents [C, T] and features [K, T]."""


@dataclass(frozen=True)
class Pairing:
    """Shares of the latents' variance that features predict linearly, in parts left out."""

    stored: float
    """As they lie beside each other."""
    displaced: list[float]
    """With the features moved around in each file: what wrong ones are worth."""

    @property
    def best_displaced(self) -> float:
        """The luckiest of the wrong ones."""
        return max(self.displaced)

    @property
    def holds(self) -> bool:
        """Whether features tell more of the latents beside them than of others."""
        return self.stored > LEAST and self.stored > ABOVE * self.best_displaced


def pairing(files: Sequence[File]) -> Pairing:
    """Of aligned files. Each file is centred: what sets files apart is not what is asked."""
    shifts = [k / (DISPLACEMENTS + 1) for k in range(1, DISPLACEMENTS + 1)]
    return Pairing(explained(files), [explained(displaced(files, s)) for s in shifts])


def displaced(files: Sequence[File], share: float) -> list[File]:
    """The features of each file moved on by a share of its length, from its end to its start."""
    return [(z, f.roll(round(share * f.shape[-1]), dims=-1)) for z, f in files]


def explained(files: Sequence[File]) -> float:
    """Share of the latents' variance that ridge regression (Hoerl and Kennard 1970) predicts.

    Cross-validated: 0 is what the files' own means predict; below, the regression misleads.
    """
    parts = [_moments(files, block) for block in range(BLOCKS)]
    whole = _Moments(*(sum(values, torch.zeros(())) for values in zip(*parts, strict=True)))
    wrong = 0.0
    for part in parts:
        weights = _fit(whole, part)
        fitted = ((weights @ part.gram) * weights).sum()
        wrong += float(part.energy - 2 * (weights * part.cross).sum() + fitted)
    return 1 - wrong / max(float(whole.energy), 1e-12)


class _Moments(NamedTuple):
    """Sums over frames."""

    gram: Tensor
    """[K, K] of features with features."""
    cross: Tensor
    """[C, K] of latents with features."""
    energy: Tensor
    """Of the latents' squares."""


def _moments(files: Sequence[File], block: int) -> _Moments:
    """Of one block of every file, the files centred."""
    z, f = (
        torch.cat([_centred(file[k]).tensor_split(BLOCKS, dim=-1)[block] for file in files], dim=-1)
        for k in (0, 1)
    )
    return _Moments(f @ f.T, z @ f.T, z.square().sum())


def _centred(x: Tensor) -> Tensor:
    x = x.double()
    return x - x.mean(dim=-1, keepdim=True)


def _fit(whole: _Moments, left_out: _Moments) -> Tensor:
    """[C, K]: the regression on all but one part."""
    gram = whole.gram - left_out.gram
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
    return torch.linalg.solve(gram + ridge, whole.cross - left_out.cross, left=False)
