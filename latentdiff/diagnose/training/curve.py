"""The course of a training, from its `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """Means over the steps since the line before."""

    step: int
    loss: float
    baseline: float
    """Of the model that knows variances only, on the same windows."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float

    @property
    def ratio(self) -> float:
        """Loss over baseline: 1 knows variances only, above 1 is worse than knowing nothing."""
        return self.loss / max(self.baseline, 1e-12)


@dataclass(frozen=True)
class Check:
    """One validation of the averaged weights."""

    step: int
    loss: float
    """On held-out windows."""
    baseline: float
    training: float | None
    """Loss on training windows at the same levels."""
    training_baseline: float | None


@dataclass(frozen=True)
class Curve:
    """Both, in the order of their steps; empty where nothing was written yet."""

    lines: list[Line]
    checks: list[Check]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Curve:
        """From the rows of a metrics file."""
        rows = list(rows)
        lines = [_picked(Line, _LINE, row) for row in rows if "loss" in row]
        checks = [_picked(Check, _CHECK, row) for row in rows if "validation/loss" in row]
        return cls(lines, checks)

    @property
    def settled(self) -> list[Line]:
        """The second half, where a training no longer falls fast."""
        return self.lines[len(self.lines) // 2 :]

    @property
    def best(self) -> Check | None:
        """The validation with the lowest loss."""
        return min(self.checks, key=lambda check: check.loss, default=None)


_LINE = {name: name for name in ("step", "loss", "baseline", "gradient_norm", "learning_rate")}
_CHECK = {
    "step": "step",
    "loss": "validation/loss",
    "baseline": "validation/baseline",
    "training": "validation/training_loss",
    "training_baseline": "validation/training_baseline",
}
"""Fields and the names they have in a metrics file."""


def _picked(kind: Callable[..., T], names: Mapping[str, str], row: Mapping[str, Any]) -> T:
    return kind(**{field: row.get(name) for field, name in names.items()})
