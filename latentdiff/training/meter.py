"""Running means between two lines of metrics, and the check that losses are finite.

Shapes: B windows of this process in a step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latentdiff.training.process_group import ProcessGroup


@dataclass(frozen=True)
class Measured:
    """What one step has shown of this process's windows; nothing of it is waited for."""

    step: int
    losses: Tensor
    """[B], times the weight of their noise level."""
    baselines: Tensor
    """[B] of the denoiser that knows variances only, times the same weight."""
    logsnr: Tensor
    """[B]."""
    files: Tensor
    """[B] index of the file that each window is from."""
    norm: Tensor
    """Of the gradient of the whole batch, before clipping."""


@dataclass(frozen=True)
class Culprits:
    """Windows whose loss is NaN or infinite at one step, or all of it where its gradient is."""

    step: int
    what: Literal["loss", "gradient"]
    files: list[int]
    logsnr: list[float]
    windows: int
    """Of the step, in this process."""


class Meter:
    """Gathers steps without waiting for the device; `read` does the waiting, and starts anew.

    `frames`: of a window. `frame_rate`: latent frames a second; None = not known.
    """

    def __init__(self, group: ProcessGroup, frames: int, frame_rate: float | None = None) -> None:
        self._group = group
        self._seconds = None if frame_rate is None else frames / frame_rate
        self.restart()

    def add(self, measured: Measured) -> None:
        """One step."""
        self._steps.append(measured)

    def waited(self, seconds: float) -> None:
        """Time spent on getting data instead of on computing."""
        self._wait += seconds

    def read(self) -> dict[str, float]:
        """Means over all processes since the last reading; empty where nothing was added."""
        if not self._steps:
            return {}
        losses = torch.cat([m.losses for m in self._steps])
        baselines = torch.cat([m.baselines for m in self._steps])
        sums = torch.tensor([losses.sum(), baselines.sum(), len(losses)], dtype=torch.float64)
        total, known, windows = self._group.sum(sums).tolist()
        elapsed = max(time.monotonic() - self._since, 1e-9)
        loss, baseline = total / windows, known / windows
        values = {
            "loss": loss,
            "baseline": baseline,
            "skill": 1.0 - loss / baseline,
            "step_seconds": elapsed / len(self._steps),
            "windows_per_second": windows / elapsed,
            "data_wait": self._wait / elapsed,
            "gradient_norm": float(torch.stack([m.norm for m in self._steps]).mean()),
        }
        if self._seconds is not None:
            values["audio_seconds_per_second"] = windows * self._seconds / elapsed
        return values

    def culprits(self) -> Culprits | None:
        """Of the first step since the last `restart` with anything NaN or infinite."""
        for measured in self._steps:
            bad = ~torch.isfinite(measured.losses).cpu()
            if bad.any():
                return _culprits("loss", measured, bad)
            if not torch.isfinite(measured.norm):
                return _culprits("gradient", measured, torch.ones_like(bad))
        return None

    def restart(self) -> None:
        """Begin the next line; what went before, such as a validation, is not in its rates."""
        self._steps: list[Measured] = []
        self._wait = 0.0
        self._since = time.monotonic()


def _culprits(what: Literal["loss", "gradient"], measured: Measured, bad: Tensor) -> Culprits:
    files, levels = measured.files.cpu()[bad], measured.logsnr.cpu()[bad]
    return Culprits(measured.step, what, files.tolist(), levels.tolist(), len(bad))
