"""Running means between two lines of metrics, and the check that losses are finite."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Meter:
    """Gathers steps without waiting for the device; `read` does the waiting, and starts anew."""

    def __init__(self) -> None:
        self._clear()

    def add(self, step: int, losses: Tensor, baselines: Tensor, norm: Tensor | None) -> None:
        """Losses [B] of a step, those of the variance-only denoiser [B], the gradient norm."""
        self._steps.append(step)
        self._losses.append(losses.detach())
        self._baselines.append(baselines.mean())
        if norm is not None:
            self._norms.append(norm.detach())

    def waited(self, seconds: float) -> None:
        """Time spent on getting data instead of on computing."""
        self._wait += seconds

    def not_finite(self) -> tuple[int, Tensor] | None:
        """The first step with a loss that is NaN or infinite, and which windows [B] bool."""
        if not self._losses or torch.isfinite(torch.cat(self._losses)).all():
            return None
        for step, losses in zip(self._steps, self._losses, strict=True):
            bad = ~torch.isfinite(losses)
            if bad.any():
                return step, bad.cpu()
        return None

    def read(self) -> dict[str, float]:
        """Means since the last reading; empty where nothing was added."""
        if not self._steps:
            return {}
        loss = float(torch.cat(self._losses).mean())
        baseline = float(torch.stack(self._baselines).mean())
        elapsed = max(time.monotonic() - self._since, 1e-9)
        windows = sum(len(losses) for losses in self._losses)
        values = {
            "loss": loss,
            "baseline": baseline,
            "skill": 1.0 - loss / baseline,
            "windows_per_second": windows / elapsed,
            "data_wait": self._wait / elapsed,
        }
        if self._norms:
            values["gradient_norm"] = float(torch.stack(self._norms).mean())
        self._clear()
        return values

    def restart_clock(self) -> None:
        """Leave out of the rates what went before, such as a validation."""
        self._since = time.monotonic()

    def _clear(self) -> None:
        self._steps: list[int] = []
        self._losses: list[Tensor] = []
        self._baselines: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._wait = 0.0
        self._since = time.monotonic()
