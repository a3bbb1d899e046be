"""What becomes of the held-out loss: its best, whether it has begun to rise, when to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from latentdiff.training.validation import Validation

RISEN = 1.05
"""Factor over its lowest from which the held-out loss is said to rise. Below it, newer weights are
the better ones to sample from: a handful of held-out windows cannot tell such losses apart, while
at the end of training the learning rate falls and samples gain most."""
IN_A_ROW = 3
"""Validations of risen loss, one after another, that are no accident."""


class BestTracker:
    """Remembers the best validation and what followed it."""

    def __init__(self) -> None:
        self.best: Validation | None = None
        """The newest whose loss has not risen."""
        self.best_step: int | None = None
        self.lowest: Validation | None = None
        """The one of the lowest loss."""
        self.lowest_step: int | None = None
        self.last: Validation | None = None
        self.since = 0
        """Validations without a lower loss."""
        self._risen = 0
        self._said = False

    def update(self, step: int, result: Validation) -> bool:
        """Take a validation in; whether its weights are the ones to keep."""
        self.last = result
        if self.lowest is None or result.loss < self.lowest.loss:
            self.lowest, self.lowest_step = result, step
            self.since, self._risen, self._said = 0, 0, False
        else:
            self.since += 1
            self._risen = self._risen + 1 if self._rises(result) else 0
        if not result.loss < RISEN * self.lowest.loss:
            return False
        self.best, self.best_step = result, step
        return True

    def overfitting(self) -> bool:
        """Whether it is to be said now: risen for a while, while the training loss fell; once."""
        if self._said or self._risen < IN_A_ROW:
            return False
        self._said = True
        return True

    def exhausted(self, patience: int | None) -> bool:
        """Whether so many validations have brought no lower loss."""
        return patience is not None and self.since >= patience

    def _rises(self, result: Validation) -> bool:
        assert self.lowest is not None
        if result.loss < RISEN * self.lowest.loss:
            return False
        if result.training is None or self.lowest.training is None:
            return True
        return result.training < self.lowest.training

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "best": self.best and asdict(self.best),
            "best_step": self.best_step,
            "lowest": self.lowest and asdict(self.lowest),
            "lowest_step": self.lowest_step,
            "last": self.last and asdict(self.last),
            "since": self.since,
            "risen": self._risen,
            "said": self._said,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name in ("best", "lowest", "last"):
            setattr(self, name, state[name] and Validation(**state[name]))
        self.best_step, self.lowest_step = state["best_step"], state["lowest_step"]
        self.since = state["since"]
        self._risen, self._said = state["risen"], state["said"]
