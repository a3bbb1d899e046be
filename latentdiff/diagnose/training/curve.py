"""The course of a training, from its `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class TrainingRow:
    """Means over the training steps since the row before."""

    step: int
    loss: float
    baseline: float
    """Loss on the same windows of a denoiser that knows only variances."""
    gradient_norm: float
    """Gradient norm before clipping."""
    learning_rate: float

    @property
    def ratio(self) -> float:
        """Loss over baseline; 1: knows only variances, above 1: worse than that."""
        return self.loss / max(self.baseline, 1e-12)


@dataclass(frozen=True)
class ValidationRow:
    """One validation of the averaged weights."""

    step: int
    loss: float
    """Loss on held-out windows."""
    baseline: float
    """Loss on the same windows of a denoiser that knows only variances."""
    training: float | None
    """Loss on training windows at the same noise levels; None: not measured."""
    training_baseline: float | None
    """Baseline on the same training windows; None: not measured."""


@dataclass(frozen=True)
class Curve:
    """The learning curve: all rows in order of steps; empty before the first is written."""

    training: list[TrainingRow]
    validations: list[ValidationRow]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, float]]) -> Curve:
        """Parse the rows of a metrics file."""
        rows = list(rows)
        return cls(
            [_training_row(row) for row in rows if row.keys() >= _TRAINING],
            [_validation_row(row) for row in rows if "validation/loss" in row],
        )

    @property
    def settled(self) -> list[TrainingRow]:
        """The second half, where the loss no longer falls fast."""
        return self.training[len(self.training) // 2 :]

    @property
    def best(self) -> ValidationRow | None:
        """The validation with the lowest loss."""
        return min(self.validations, key=lambda row: row.loss, default=None)

    @property
    def peak_rate(self) -> float:
        """The highest learning rate; there must be training rows."""
        return max(row.learning_rate for row in self.training)


_TRAINING = {field.name for field in fields(TrainingRow)}


def _training_row(row: Mapping[str, float]) -> TrainingRow:
    return TrainingRow(
        step=int(row["step"]),
        loss=row["loss"],
        baseline=row["baseline"],
        gradient_norm=row["gradient_norm"],
        learning_rate=row["learning_rate"],
    )


def _validation_row(row: Mapping[str, float]) -> ValidationRow:
    return ValidationRow(
        step=int(row["step"]),
        loss=row["validation/loss"],
        baseline=row["validation/baseline"],
        training=row.get("validation/training_loss"),
        training_baseline=row.get("validation/training_baseline"),
    )
