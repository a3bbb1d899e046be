"""Means over the steps of one line of metrics, and the check that losses are finite.

Shapes: B windows of this process in a step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from latentdiff.training.process_group import ProcessGroup


@dataclass(frozen=True)
class StepMeasurement:
    """Measurements of one step on this process's windows, still on the device."""

    step: int
    losses: Tensor
    """[B], times the weight of their noise level."""
    baselines: Tensor
    """[B] of the denoiser that skill is measured against, times the same weight."""
    logsnr: Tensor
    """[B]."""
    files: Tensor
    """[B] index of the file that each window was cut from."""
    norm: Tensor
    """Norm of the gradient of the whole batch, before clipping."""


@dataclass(frozen=True)
class TrainingMetrics:
    """Means over all processes and over the steps since the last line of metrics."""

    loss: float
    baseline: float
    """Loss of the denoiser that skill is measured against, on the same windows and noise."""
    step_seconds: float
    windows_per_second: float
    data_wait: float
    """Share 0..1 of the time spent waiting for windows."""
    gradient_norm: float
    """Gradient norm before clipping."""
    audio_seconds_per_second: float | None = None
    """None if the frame rate of the latents is unknown."""

    @property
    def skill(self) -> float:
        """1 - loss / baseline: 0 = learned nothing, 1 = perfect."""
        return 1.0 - self.loss / self.baseline

    def metrics(self) -> dict[str, float]:
        """Everything by name, for the metrics file."""
        values = {"loss": self.loss, "baseline": self.baseline, "skill": self.skill, **asdict(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_metrics(cls, values: Mapping[str, float]) -> TrainingMetrics:
        """The inverse of `metrics`."""
        return cls(**{name: value for name, value in values.items() if name != "skill"})


@dataclass(frozen=True)
class NonFiniteStep:
    """The windows of one step whose loss is NaN or infinite; all of them if the gradient is."""

    step: int
    what: Literal["loss", "gradient"]
    files: list[int]
    logsnr: list[float]
    windows: int
    """Windows of the step in this process."""


class Meter:
    """Collects measurements of steps without waiting for the device; `read` waits.

    `frames`: of a window. `frame_rate`: latent frames per second; None = unknown.
    """

    def __init__(self, group: ProcessGroup, frames: int, frame_rate: float | None = None) -> None:
        self._group = group
        self._seconds = None if frame_rate is None else frames / frame_rate
        self.restart()

    def add(self, measured: StepMeasurement) -> None:
        """Add one step."""
        self._steps.append(measured)

    def waited(self, seconds: float) -> None:
        """Add time spent waiting for data instead of computing."""
        self._wait += seconds

    def read(self) -> TrainingMetrics:
        """Means over the steps since `restart`, of which there must be at least one."""
        losses = torch.cat([m.losses for m in self._steps])
        baselines = torch.cat([m.baselines for m in self._steps])
        # Sums and a count, not means: processes may hold unequal shares of a batch.
        sums = torch.tensor([losses.sum(), baselines.sum(), len(losses)], dtype=torch.float64)
        loss, baseline, windows = self._group.sum(sums).tolist()
        # Taken after the sum, which waits for the device to finish the steps.
        elapsed = max(time.monotonic() - self._since, 1e-9)
        seconds = self._seconds
        return TrainingMetrics(
            loss=loss / windows,
            baseline=baseline / windows,
            step_seconds=elapsed / len(self._steps),
            windows_per_second=windows / elapsed,
            data_wait=self._wait / elapsed,
            gradient_norm=float(torch.stack([m.norm for m in self._steps]).mean()),
            audio_seconds_per_second=None if seconds is None else windows * seconds / elapsed,
        )

    def first_non_finite(self) -> NonFiniteStep | None:
        """The first step since `restart` with a NaN or infinite loss or gradient."""
        for measured in self._steps:
            bad = ~torch.isfinite(measured.losses).cpu()
            if bad.any():
                return _non_finite("loss", measured, bad)
            if not torch.isfinite(measured.norm):
                return _non_finite("gradient", measured, torch.ones_like(bad))
        return None

    def restart(self) -> None:
        """Start the next line; time before this call, such as a validation, does not count."""
        self._steps: list[StepMeasurement] = []
        self._wait = 0.0
        self._since = time.monotonic()


def _non_finite(
    what: Literal["loss", "gradient"], measured: StepMeasurement, bad: Tensor
) -> NonFiniteStep:
    files, levels = measured.files.cpu()[bad], measured.logsnr.cpu()[bad]
    return NonFiniteStep(measured.step, what, files.tolist(), levels.tolist(), len(bad))
