"""Whether the files of a store belong together: what sets some of them apart from the others.

Shapes: D latent dimensions, F files, T latent frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STILL = 0.05
"""Change from one frame to the next, over the root mean square of all changes, below which sound
stands still."""
FEW_DIMENSIONS = 16
"""D below which the profile of a file's variances does not identify a codec."""
FEW_FILES = 4
"""F below which files are not compared."""
FLOOR = 1e-12
"""Share of the largest variance below which a direction is constant but for rounding."""


@dataclass(frozen=True)
class FileHealth:
    """Figures of the training files of a store."""

    still: float
    """Share of frames that hardly differ from the frame before."""
    deviations: list[float]
    """[F], deviation within each file over that of the typical file."""
    displaced: float
    """Variance of the files' means over the variance within files, in the direction where this is
    largest; 0: fewer than FEW_FILES files."""
    displaced_files: int
    """Files on the smaller side of that direction."""
    alike: float
    """Mean correlation of files' variance profiles within two groups chosen to differ; 1: fewer
    than FEW_FILES files, or than FEW_DIMENSIONS dimensions."""
    unlike: float
    """The same between the groups: about 0 if different codecs made them; 1 as above."""
    other_files: int
    """Files in the smaller group."""
    leaked: list[int]
    """Held-out files, by position, whose frames are those of a training file."""


def measure(
    train: Sequence[NDArray[np.float32]], held_out: Sequence[NDArray[np.float32]]
) -> FileHealth:
    """Measure raw latents [D, T] of each file; memory maps are read one at a time."""
    moments = [_Moments.of(file) for file in train]
    displaced, displaced_files = _displacement(moments)
    alike, unlike, other_files = _profiles(moments)
    seen = {_digest(file) for file in train}
    deviations = np.sqrt([moment.variance.sum() for moment in moments])
    return FileHealth(
        still=_still(train),
        deviations=(deviations / max(float(np.median(deviations)), 1e-30)).tolist(),
        displaced=displaced,
        displaced_files=displaced_files,
        alike=alike,
        unlike=unlike,
        other_files=other_files,
        leaked=[k for k, file in enumerate(held_out) if _digest(file) in seen],
    )


@dataclass(frozen=True)
class _Moments:
    """Of one file."""

    frames: int
    mean: Array
    """[D]."""
    covariance: Array
    """[D, D]."""

    @classmethod
    def of(cls, file: NDArray[np.float32]) -> _Moments:
        z = np.asarray(file, dtype=np.float64)
        mean = z.mean(axis=1)
        centred = z - mean[:, None]
        return cls(z.shape[1], mean, centred @ centred.T / z.shape[1])

    @property
    def variance(self) -> Array:
        """[D]."""
        return np.diag(self.covariance)


def _displacement(moments: Sequence[_Moments]) -> tuple[float, int]:
    """The largest ratio of variance between files to that within, and the files set apart."""
    if len(moments) < FEW_FILES:
        return 0.0, 0
    frames = sum(moment.frames for moment in moments)
    within = sum((m.covariance * (m.frames / frames) for m in moments), np.zeros(()))
    # In the principal directions: a codec leaves most of its dimensions all but unused, so that
    # what is not sound shows in them.
    variances, directions = np.linalg.eigh(within)
    means = np.stack([moment.mean for moment in moments]) @ directions
    ratios = means.var(axis=0) / np.maximum(variances, max(FLOOR * variances[-1], 1e-30))
    worst = int(ratios.argmax())
    middle = (means[:, worst].min() + means[:, worst].max()) / 2
    above = int((means[:, worst] > middle).sum())
    return float(ratios[worst]), min(above, len(moments) - above)


def _profiles(moments: Sequence[_Moments]) -> tuple[float, float, int]:
    """Mean correlation of variance profiles within and between two groups; size of the smaller.

    Which dimensions a codec uses, and how much, is the codec's own: files of one codec agree in the
    logarithms of their variances, whatever they sound like. The groups are the two sides of the
    leading eigenvector of the centred correlations (spectral bisection).
    """
    if len(moments) < FEW_FILES or len(moments[0].mean) < FEW_DIMENSIONS:
        return 1.0, 1.0, 0
    profiles = np.log(np.stack([moment.variance for moment in moments]) + 1e-12)
    profiles -= profiles.mean(axis=1, keepdims=True)
    profiles /= np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-12)
    correlation = profiles @ profiles.T
    centred = correlation - correlation.mean(axis=0) - correlation.mean(axis=1)[:, None]
    side = np.linalg.eigh(centred + correlation.mean())[1][:, -1] > 0
    same = side[:, None] == side
    smaller = min(int(side.sum()), int((~side).sum()))
    if smaller < 2:
        return 1.0, 1.0, smaller
    others = same & ~np.eye(len(side), dtype=bool)
    return float(correlation[others].mean()), float(correlation[~same].mean()), smaller


def _still(files: Sequence[NDArray[np.float32]]) -> float:
    """Share of frames that hardly differ from the frame before."""
    changes = [np.square(np.diff(np.asarray(f, np.float64), axis=1)).sum(axis=0) for f in files]
    every = np.concatenate(changes)
    return float((every < STILL**2 * every.mean()).mean()) if every.size and every.any() else 1.0


def _digest(file: NDArray[np.float32]) -> str:
    # Of the values: two encodings of a recording may be stored in different orders.
    return hashlib.sha256(np.ascontiguousarray(file, dtype=np.float32).tobytes()).hexdigest()
