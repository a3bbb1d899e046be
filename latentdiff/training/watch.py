"""What becomes of the held-out loss: its best, whether it has begun to rise, when to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from latentdiff.training.validation import Validation

RISEN = 1.02
"""Factor over its best from which the held-out loss is said to rise."""
IN_A_ROW = 3
"""Validations of risen loss, one after another, that are no accident."""


class Watch:
    """Remembers the best validation and what followed it."""

    def __init__(self) -> None:
        self.best: Validation | None = None
        self.best_step: int | None = None
        self.last: Validation | None = None
        self.since = 0
        """Validations without a new best."""
        self._risen = 0
        self._said = False

    def see(self, step: int, result: Validation) -> bool:
        """Take a validation in; whether it is the best so far."""
        self.last = result
        if self.best is None or result.loss < self.best.loss:
            self.best, self.best_step = result, step
            self.since, self._risen, self._said = 0, 0, False
            return True
        self.since += 1
        self._risen = self._risen + 1 if self._rises(result) else 0
        return False

    def overfitting(self) -> bool:
        """Whether it is to be said now: risen for a while, while the training loss fell; once."""
        if self._said or self._risen < IN_A_ROW:
            return False
        self._said = True
        return True

    def exhausted(self, patience: int | None) -> bool:
        """Whether so many validations have brought no new best."""
        return patience is not None and self.since >= patience

    def _rises(self, result: Validation) -> bool:
        assert self.best is not None
        if result.loss < RISEN * self.best.loss:
            return False
        if result.training is None or self.best.training is None:
            return True
        return result.training < self.best.training

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "best": self.best and asdict(self.best),
            "best_step": self.best_step,
            "last": self.last and asdict(self.last),
            "since": self.since,
            "risen": self._risen,
            "said": self._said,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.best = state["best"] and Validation(**state["best"])
        self.last = state["last"] and Validation(**state["last"])
        self.best_step, self.since = state["best_step"], state["since"]
        self._risen, self._said = state["risen"], state["said"]
