"""How far training has come: steps, hours, and what is scheduled by them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentdiff.training.settings import TrainingConfig

WARMUP = 0.02
"""Share of the budget that warm-up takes where its steps are not given."""
MOST_WARMUP = 1000
"""Most steps of such a warm-up."""
VALIDATIONS, LINES = 40, 500
"""How many of each a whole budget holds where their interval is not given."""


@dataclass(frozen=True)
class Budget:
    """Where a run ends: after so many steps or hours, whichever comes first.

    Hours are wall-clock and count all attempts of a run together, validation and demos included.
    """

    settings: TrainingConfig

    @property
    def timed(self) -> bool:
        """Whether the clock can end the run; what is scheduled then depends on its pace."""
        return self.settings.hours is not None

    def describe(self) -> str:
        """In words."""
        steps, hours = self.settings.steps, self.settings.hours
        parts = [] if steps is None else [str(steps)]
        return " or ".join(parts if hours is None else [*parts, f"{hours:g} h"])

    def progress(self, step: int, elapsed: float) -> float:
        """Share 0..1 of the budget spent after `step` steps and `elapsed` seconds."""
        spent = 0.0 if self.settings.steps is None else step / self.settings.steps
        if self.settings.hours is not None:
            spent = max(spent, elapsed / (3600 * self.settings.hours))
        return min(1.0, spent)

    def over(self, step: int, elapsed: float) -> bool:
        """Whether no step is left."""
        return self.progress(step, elapsed) >= 1.0

    def total(self, step: int, elapsed: float) -> float:
        """Steps of the whole run: `steps`, or what the pace so far comes to."""
        if self.settings.steps is not None and not self.timed:
            return self.settings.steps
        return step / max(self.progress(step, elapsed), 1e-9)

    def halflife(self, step: int, seen: int, elapsed: float) -> float:
        """EMA half-life in windows where none is given: 2 % of those of the whole run."""
        return max(1.0, 0.02 * seen * self.total(step, elapsed) / max(step, 1))

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
        """Of `step` (from 1), begun after `elapsed` seconds: warm-up, plateau, cosine tail.

        The tail ends with the budget, whichever of steps and hours that is.
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
        # The pace wavers: doublings divide each other, so that a changed interval skips nothing.
        return int(least * 2 ** math.floor(math.log2(wanted / least)))
