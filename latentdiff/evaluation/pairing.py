"""Whether condition features belong to the latents they are stored with.

Shapes: C latent channels, K condition features, T frames of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BLOCKS = 8
"""Parts of each file, for cross-validation: each is predicted from a fit to the others."""
RIDGE = 0.3
"""Ridge penalty in units of the features' mean variance: keeps few files from being overfitted."""
WRONG = 7
"""Number of wrong pairs tried, with the features of other files or, if there are hardly any, with
those of the file itself, rotated by equal steps."""
FEW_FILES = 3
"""Files below which there are no other files to speak of."""
LEAST = 0.02
"""Share of the variance below which features count as uninformative."""
ABOVE = 1.5
"""Factor by which the stored pairs must beat the best of the wrong ones."""

AlignedFile = tuple[Tensor, Tensor]
"""Latents [C, T] and features [K, T]."""


@dataclass(frozen=True)
class Pairing:
    """Shares of the latents' variance that the features predict linearly, cross-validated."""

    stored: float
    """Score with features and latents paired as stored."""
    wrong: list[float]
    """Scores of wrong pairs: what is reached by chance."""

    @property
    def best_wrong(self) -> float:
        """The best of the wrong pairs."""
        return max(self.wrong)

    @property
    def holds(self) -> bool:
        """Whether features predict their own latents better than others."""
        return self.stored > LEAST and self.stored > ABOVE * self.best_wrong


def pairing(files: Sequence[AlignedFile]) -> Pairing:
    """Measure aligned files. Each is centred, so differences between files do not count.

    Music repeats itself: a beat fits its own file at many wrong places, but no other file.
    """
    if len(files) < FEW_FILES:
        shares = [k / (WRONG + 1) for k in range(1, WRONG + 1)]
        return Pairing(explained(files), [explained(rotated(files, s)) for s in shares])
    steps = range(1, min(len(files), WRONG + 1))
    return Pairing(explained(files), [explained(exchanged(files, step)) for step in steps])


def rotated(files: Sequence[AlignedFile], share: float) -> list[AlignedFile]:
    """The features of each file rotated by a share of its length."""
    return [(z, f.roll(round(share * f.shape[-1]), dims=-1)) for z, f in files]


def exchanged(files: Sequence[AlignedFile], step: int) -> list[AlignedFile]:
    """The features of the file `step` further on, repeated to the length needed."""
    found = []
    for k, (z, _) in enumerate(files):
        other, frames = files[(k + step) % len(files)][1], z.shape[-1]
        found.append((z, other.repeat(1, -(-frames // other.shape[-1]))[:, :frames]))
    return found


def explained(files: Sequence[AlignedFile]) -> float:
    """Share of the latents' variance that ridge regression (Hoerl and Kennard 1970) predicts.

    Cross-validated: 0 is no better than predicting each file's mean, below 0 is worse.
    """
    return sum(block_scores(files))


def block_scores(files: Sequence[AlignedFile]) -> list[float]:
    """Share of all latents' variance that is predicted in each block by a fit to the others.

    The shares sum to `explained`.
    """
    # Sums over frames are all that a regression needs: leaving out a part is a subtraction.
    parts = [_moments(files, block) for block in range(BLOCKS)]
    whole = _Moments(*(sum(values, torch.zeros(())) for values in zip(*parts, strict=True)))
    energy, scores = max(float(whole.energy), 1e-12), []
    for part in parts:
        weights = _fit(whole, part)
        fitted = ((weights @ part.gram) * weights).sum()
        scores.append(float(2 * (weights * part.cross).sum() - fitted) / energy)
    return scores


class _Moments(NamedTuple):
    """Sums over frames, which determine a linear regression and its error."""

    gram: Tensor
    """[K, K] of features with features."""
    cross: Tensor
    """[C, K] of latents with features."""
    energy: Tensor
    """Sum of the latents' squares."""


def _moments(files: Sequence[AlignedFile], block: int) -> _Moments:
    """The moments of one block of every file, each file centred."""
    z, f = (
        torch.cat([_centred(file[k]).tensor_split(BLOCKS, dim=-1)[block] for file in files], dim=-1)
        for k in (0, 1)
    )
    return _Moments(f @ f.T, z @ f.T, z.square().sum())


def _centred(x: Tensor) -> Tensor:
    x = x.double()
    return x - x.mean(dim=-1, keepdim=True)


def _fit(whole: _Moments, left_out: _Moments) -> Tensor:
    """Weights [C, K] of the regression on all but one part."""
    gram = whole.gram - left_out.gram
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
    weights: Tensor = torch.linalg.solve(gram + ridge, whole.cross - left_out.cross, left=False)
    return weights
