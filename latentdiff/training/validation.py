"""Validation that can be compared from step to step: same windows, same noise, same levels.

Shapes: B windows, C latent channels, K condition features, L noise levels, W frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.specs import Condition, Denoise
from latentdiff.training.data import Batch, generator_for
from latentdiff.training.task import Task, knows_variance


@dataclass(frozen=True)
class Validation:
    """Losses on held-out windows; every one beside what a model scores that knows variances only.

    Lists hold one value per noise level, from clean to noisy.
    """

    logsnr: list[float]
    losses: list[float]
    baselines: list[float]
    shuffled: float | None
    """Mean loss with the conditions exchanged among windows; None = no condition, or one window."""

    @property
    def loss(self) -> float:
        """Mean over levels."""
        return sum(self.losses) / len(self.losses)

    @property
    def baseline(self) -> float:
        """Mean over levels."""
        return sum(self.baselines) / len(self.baselines)

    @property
    def skill(self) -> float:
        """1 - loss / baseline: 0 = learned nothing, 1 = knows everything."""
        return 1.0 - self.loss / self.baseline

    @property
    def conditioning_gain(self) -> float | None:
        """By which share the loss rises when conditions are exchanged; 0 = they are ignored."""
        return None if self.shuffled is None else self.shuffled / self.loss - 1.0

    def metrics(self) -> dict[str, float]:
        """All of it by name, for the metrics file."""
        values = {"loss": self.loss, "baseline": self.baseline, "skill": self.skill}
        if self.conditioning_gain is not None:
            values["conditioning_gain"] = self.conditioning_gain
        for level, loss, base in zip(self.logsnr, self.losses, self.baselines, strict=True):
            values[f"loss@{level:+.1f}"] = loss
            values[f"baseline@{level:+.1f}"] = base
            values[f"skill@{level:+.1f}"] = 1.0 - loss / base
        return values


class Validator:
    """Measures denoisers on the windows it was given; nothing it draws depends on the step."""

    def __init__(self, windows: Batch, task: Task, levels: int, batch: int) -> None:
        self.windows = windows
        self._task = task
        self._batch = batch
        self.logsnr = task.levels(levels)

    @torch.no_grad()
    def measure(self, denoise: Denoise, device: torch.device) -> Validation:
        """Losses of `denoise`, with its own conditions and, where there are any, exchanged."""
        losses, baselines, shuffled = [], [], []
        exchanged = exchange(self.windows)
        for index, level in enumerate(self.logsnr):
            noise = torch.randn(
                self.windows.latents.shape, generator=generator_for("validation", index)
            )
            losses.append(self._mean(denoise, self.windows, level, noise, device))
            baselines.append(self._mean(knows_variance, self.windows, level, noise, device))
            if exchanged is not None:
                shuffled.append(self._mean(denoise, exchanged, level, noise, device))
        mean = sum(shuffled) / len(shuffled) if shuffled else None
        return Validation(self.logsnr.tolist(), losses, baselines, mean)

    def _mean(
        self, denoise: Denoise, windows: Batch, level: Tensor, noise: Tensor, device: torch.device
    ) -> float:
        total = torch.zeros((), dtype=torch.float64)
        count = len(windows.files)
        for start in range(0, count, self._batch):
            part = slice(start, start + self._batch)
            batch = windows.pick(part).to(device)
            logsnr = level.expand(len(batch.files)).to(device)
            losses = self._task.losses(denoise, batch, logsnr, noise[part].to(device))
            total += losses.double().sum().cpu()
        return float(total / count)


def exchange(windows: Batch) -> Batch | None:
    """The windows with conditions of others, half a set away (so mostly of another file).

    None where there are no conditions or no other windows.
    """
    count = len(windows.files)
    if count < 2 or all(x is None for x in windows.condition):
        return None
    order = (torch.arange(count) + count // 2) % count
    wrong = Condition(*(None if x is None else x[order] for x in windows.condition))
    return windows._replace(condition=wrong)
