"""Results of `diagnose overfit`, in the structure of `overfit.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEVEL = 1.05
"""More steps are no worse while their distance is at most this times that of one step."""
ROUNDING = 0.005
"""Distance below which differences do not count."""
LEARNED = 0.3
"""Distance up to which a sample is the target, and training error up to which it is learned."""
EXPLAINED = 2.0
"""Largest ratio of sample error to training error that undertraining alone explains: errors of many
steps add up. Undertrained networks without mistakes reached 1.4 at most."""

Verdict = Literal[
    "not learned", "fewer steps are better", "not reached", "more steps are not worse"
]


@dataclass(frozen=True)
class DistanceRow:
    """Distances of samples drawn in one number of steps, in the targets' RMS, over seeds.

    0: the target; 1: as far as silence; 1.41: as far as unrelated noise of the same strength.
    """

    steps: int
    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Results:
    """How closely a model reproduces the targets it was overfitted to."""

    target: str
    """Source of the targets: a file, a run, or `drawn`."""
    targets: int
    """Number of targets."""
    channels: int
    frames: int
    as_in_notebook: bool
    """Whether training and sampling repeat the notebook's mistakes."""
    steps: int
    """Training steps."""
    loss: float
    """Mean training loss at the end."""
    baseline: float
    """Mean loss of a denoiser that knows only the variance of each channel."""
    skill: float
    """1 - loss / baseline; 1: the target is learned at every noise level."""
    sampler: str
    samples: int
    """Seeds for each number of steps."""
    distances: list[DistanceRow]
    """One row per number of steps, in rising order."""

    @property
    def training_error(self) -> float:
        """RMS error of the network beside that of knowing only variances, both in training.

        About the distance of samples that undertraining alone explains; NaN if training diverged.
        """
        return math.sqrt(max(1 - self.skill, 0.0))

    @property
    def rises(self) -> bool:
        """Whether more steps lead farther from the target than one step does."""
        one, *more = (row.median for row in self.distances)
        # Not `any(x > ...)`: NaN is the farthest.
        return not all(x <= LEVEL * one + ROUNDING for x in more)

    @property
    def verdict(self) -> Verdict:
        """Steps are compared only after the target has been learned.

        A network learns the noisiest levels first, of which one step needs no others: until the
        cleaner levels are learned too, fewer steps always look better.
        """
        explained = EXPLAINED * self.training_error
        # `not ... <=`, so that NaN counts as not learned and as not explained.
        if not self.training_error <= LEARNED:
            return "not learned"
        if self.rises:
            beyond = not all(row.median <= explained for row in self.distances[1:])
            return "fewer steps are better" if beyond else "not learned"
        if not self.distances[-1].median <= LEARNED:
            return "not reached"
        return "more steps are not worse"
