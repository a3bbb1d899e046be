"""The budget of a training in steps and hours, and everything scheduled by it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentdiff.run_length import RunLength
from latentdiff.training.settings import TrainingConfig

WARMUP = 0.02
"""Share of the budget that warm-up takes if its steps are not given."""
MOST_WARMUP = 1000
"""Longest such warm-up, in steps."""
VALIDATIONS, LINES = 40, 500
"""How many validations and lines of metrics fit in a budget if their intervals are not given."""
HALFLIFE = 0.02
"""EMA half-life as a share of the windows of a whole run, if none is given."""


@dataclass(frozen=True)
class Budget(RunLength):
    """The length of a run, demos included, and what is scheduled by it."""

    settings: TrainingConfig

    def total(self, step: int, elapsed: float) -> float:
        """Steps of the whole run: `steps`, or extrapolated from the pace so far."""
        if self.settings.steps is not None and not self.timed:
            return self.settings.steps
        return step / max(self.progress(step, elapsed), 1e-9)

    def halflife(self, step: int, seen: int, elapsed: float) -> float:
        """EMA half-life in windows if none is given: HALFLIFE of those of the whole run.

        `seen`: windows so far.
        """
        # seen / step is the mean batch size: `batch` may have been changed on resuming.
        return max(1.0, HALFLIFE * seen * self.total(step, elapsed) / max(step, 1))

    def validation_interval(self, step: int, elapsed: float) -> int:
        """Steps between validations."""
        return self.settings.validate_every or self._interval(VALIDATIONS, 100, 2000, step, elapsed)

    def checkpoint_interval(self, step: int, elapsed: float) -> int:
        """Steps between checkpoints."""
        return self.settings.checkpoint_every or self.validation_interval(step, elapsed)

    def demo_interval(self, step: int, elapsed: float) -> int:
        """Steps between demos."""
        return self.settings.demo_every or self.validation_interval(step, elapsed)

    def log_interval(self, step: int, elapsed: float) -> int:
        """Steps per line of metrics."""
        return self.settings.log_every or self._interval(LINES, 10, 100, step, elapsed)

    def learning_rate(self, step: int, elapsed: float = 0.0) -> float:
        """Learning rate of `step` (from 1), begun after `elapsed` seconds.

        Warm-up, plateau, then a cosine tail that ends with the budget, be it steps or hours.
        """
        settings = self.settings
        tail = 0.0
        if settings.decay:
            into = self.progress(step - 1, elapsed) - (1.0 - settings.decay)
            tail = max(0.0, into) / settings.decay
        fall = 0.5 * (1.0 + math.cos(math.pi * tail))
        return settings.learning_rate * self._warm(step, elapsed) * fall

    def _warm(self, step: int, elapsed: float) -> float:
        given = self.settings.warmup_steps
        if given is not None:
            return min(1.0, step / given) if given else 1.0
        return min(1.0, max(step / MOST_WARMUP, self.progress(step, elapsed) / WARMUP))

    def _interval(self, parts: int, least: int, most: int, step: int, elapsed: float) -> int:
        wanted = min(most, max(least, int(self.total(step, elapsed) / parts)))
        if not self.timed:
            return wanted
        # The pace varies, and so does the interval. Its values are doublings, which divide each
        # other: a step that is a multiple of the longer one is never skipped.
        return int(least * 2 ** math.floor(math.log2(wanted / least)))
