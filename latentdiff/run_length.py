"""How long a training runs: for some steps, for some hours, or until the first of both is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class LengthSettings(Protocol):
    """Settings of a training that limit it; None: no limit. One of both is set."""

    @property
    def steps(self) -> int | None:
        """Steps in all."""

    @property
    def hours(self) -> float | None:
        """Wall-clock hours in all."""


@dataclass(frozen=True)
class RunLength:
    """When a run ends: after its steps or hours, whichever come first.

    Hours are wall-clock time, summed over all attempts, with everything that happens between steps.
    """

    settings: LengthSettings

    @property
    def timed(self) -> bool:
        """Whether the clock can end the run; schedules then depend on the pace of training."""
        return self.settings.hours is not None

    def describe(self) -> str:
        """The budget in words, such as `20000 or 2 h`."""
        steps, hours = self.settings.steps, self.settings.hours
        parts = [] if steps is None else [str(steps)]
        return " or ".join(parts if hours is None else [*parts, f"{hours:g} h"])

    def progress(self, step: int, elapsed: float, reserved: float = 0.0) -> float:
        """Share 0..1 of the budget used after `step` steps and `elapsed` seconds.

        `reserved`: seconds that something after the last step will take.
        """
        spent = 0.0 if self.settings.steps is None else step / self.settings.steps
        if self.settings.hours is not None:
            available = 3600 * self.settings.hours - reserved
            spent = max(spent, elapsed / available if available > 0 else 1.0)
        return min(1.0, spent)

    def over(self, step: int, elapsed: float, reserved: float = 0.0) -> bool:
        """Whether the budget is used up; `reserved` as in `progress`."""
        return self.progress(step, elapsed, reserved) >= 1.0
