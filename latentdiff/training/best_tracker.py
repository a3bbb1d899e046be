"""The held-out loss from validation to validation: its best, overfitting, early stopping."""

from __future__ import annotations

from dataclasses import asdict

from latentdiff.training.checkpoint import State
from latentdiff.training.validation import Validation

RISEN = 1.05
"""The held-out loss counts as risen from this factor times its lowest on. Below it, newer weights
are the better ones to sample from: a few held-out windows cannot tell such losses apart, while at
the end of training the learning rate falls and samples improve most."""
IN_A_ROW = 3
"""Consecutive validations with a risen loss that count as overfitting."""


class BestTracker:
    """Tracks the best validation and what followed it."""

    def __init__(self) -> None:
        self.best: Validation | None = None
        """The newest validation at which the loss had not risen."""
        self.best_step: int | None = None
        self.lowest: Validation | None = None
        """The validation with the lowest loss."""
        self.lowest_step: int | None = None
        self.last: Validation | None = None
        """The newest validation."""
        self.since = 0
        """Validations since the lowest."""
        self._risen = 0
        self._warned = False

    def update(self, step: int, result: Validation) -> bool:
        """Add a validation; returns whether its weights are the new best."""
        self.last = result
        if self.lowest is None or result.loss < self.lowest.loss:
            self.lowest, self.lowest_step = result, step
            self.since, self._risen, self._warned = 0, 0, False
        else:
            self.since += 1
            self._risen = self._risen + 1 if self._rises(result) else 0
        if not result.loss < RISEN * self.lowest.loss:
            return False
        self.best, self.best_step = result, step
        return True

    def overfitting(self) -> bool:
        """Whether to warn now, once: risen IN_A_ROW times while the training loss fell."""
        if self._warned or self._risen < IN_A_ROW:
            return False
        self._warned = True
        return True

    def exhausted(self, patience: int | None) -> bool:
        """Whether `patience` validations in a row brought no lower loss; None = never."""
        return patience is not None and self.since >= patience

    def _rises(self, result: Validation) -> bool:
        """Whether the held-out loss has risen and the training loss, if known, has fallen."""
        assert self.lowest is not None
        if result.loss < RISEN * self.lowest.loss:
            return False
        if result.training is None or self.lowest.training is None:
            return True
        return result.training < self.lowest.training

    def state_dict(self) -> State:
        """Everything as plain values."""
        return {
            "best": self.best and asdict(self.best),
            "best_step": self.best_step,
            "lowest": self.lowest and asdict(self.lowest),
            "lowest_step": self.lowest_step,
            "last": self.last and asdict(self.last),
            "since": self.since,
            "risen": self._risen,
            "said": self._warned,
        }

    def load_state_dict(self, state: State) -> None:
        """The inverse of `state_dict`."""
        for name in ("best", "lowest", "last"):
            setattr(self, name, state[name] and Validation(**state[name]))
        self.best_step, self.lowest_step = state["best_step"], state["lowest_step"]
        self.since = state["since"]
        self._risen, self._warned = state["risen"], state["said"]
