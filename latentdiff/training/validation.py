"""Validation that can be compared from step to step: same windows, same noise, same levels.

Shapes: B windows, C latent channels, K condition features, L noise levels, W frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.specs import Condition, Denoise
from latentdiff.training.data import Batch, generator_for
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.task import Task


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
    raw: float | None = None
    """Mean loss of the weights that are not averaged; None = not measured."""
    training: float | None = None
    """Mean loss on windows of the training files, at the same levels; None = not measured."""
    training_baseline: float | None = None
    """Of the model that knows variances, on these."""
    halflife: float | None = None
    """EMA half-life (windows) of the weights measured; None = the one that follows the budget."""
    averages: list[float] | None = None
    """Mean loss of each average where several are kept, in the order of the settings."""

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
    def training_skill(self) -> float | None:
        """1 - loss / baseline on windows of the training files."""
        if self.training is None or self.training_baseline is None:
            return None
        return 1.0 - self.training / self.training_baseline

    @property
    def conditioning_gain(self) -> float | None:
        """By which share the loss rises when conditions are exchanged; 0 = they are ignored."""
        return None if self.shuffled is None else self.shuffled / self.loss - 1.0

    def metrics(self) -> dict[str, float]:
        """All of it by name, for the metrics file."""
        values = {"loss": self.loss, "baseline": self.baseline, "skill": self.skill}
        further = {
            "conditioning_gain": self.conditioning_gain,
            "raw_loss": self.raw,
            "training_loss": self.training,
            "training_baseline": self.training_baseline,
            "training_skill": self.training_skill,
        }
        for number, loss in enumerate(self.averages or []):
            further[f"loss_of_average_{number}"] = loss
        values.update({name: value for name, value in further.items() if value is not None})
        for level, loss, base in zip(self.logsnr, self.losses, self.baselines, strict=True):
            values[f"loss@{level:+.1f}"] = loss
            values[f"baseline@{level:+.1f}"] = base
            values[f"skill@{level:+.1f}"] = 1.0 - loss / base
        return values


class Validator:
    """Measures denoisers on the windows it was given; nothing it draws depends on the step.

    `thin`: what need not be known so well (exchanged conditions, raw weights) is measured on each
    window at one of so many levels only, and taken from its ratio to the whole on the same ones.
    """

    def __init__(
        self,
        windows: Batch,
        task: Task,
        levels: int,
        batch: int,
        *,
        thin: int = 1,
        group: ProcessGroup | None = None,
    ) -> None:
        self.windows = windows
        self.logsnr = task.levels(levels)
        self._task = task
        self._batch = batch
        self._group = group
        count, found = len(windows.files), len(self.logsnr)
        self._all = torch.ones(found, count, dtype=torch.bool)
        # Each level has windows, and each window a level, only where there are enough of both.
        enough = thin if count >= 2 * thin and found >= thin else 1
        offset = torch.arange(found)[:, None] + torch.arange(count)
        self._some = offset % enough == 0
        self._baselines: Tensor | None = None

    @torch.no_grad()
    def measure(
        self, denoise: Denoise, device: torch.device, *, raw: Denoise | None = None
    ) -> Validation:
        """Losses of `denoise`, with its own conditions and, where there are any, exchanged.

        `raw`: the same model with its weights of this moment.
        """
        table = self._table(denoise, self.windows, self._all, device)
        baselines = self._known(device)
        loss = float(table.mean())
        exchanged = exchange(self.windows)
        return Validation(
            self.logsnr.tolist(),
            table.mean(dim=1).tolist(),
            baselines.mean(dim=1).tolist(),
            shuffled=None
            if exchanged is None
            else loss * self._ratio(denoise, exchanged, table, device),
            raw=None if raw is None else loss * self._ratio(raw, self.windows, table, device),
        )

    @torch.no_grad()
    def brief(self, denoise: Denoise, device: torch.device) -> tuple[float, float]:
        """Mean loss of `denoise` and of the model that knows variances, on the thinned grid."""
        table = self._table(denoise, self.windows, self._some, device)
        return _mean(table, self._some), _mean(self._known(device), self._some)

    def _ratio(
        self, denoise: Denoise, windows: Batch, whole: Tensor, device: torch.device
    ) -> float:
        table = self._table(denoise, windows, self._some, device)
        return _mean(table, self._some) / _mean(whole, self._some)

    def _known(self, device: torch.device) -> Tensor:
        if self._baselines is None:
            known = self._task.knows_variance
            self._baselines = self._table(known, self.windows, self._all, device)
        return self._baselines

    def _table(
        self, denoise: Denoise, windows: Batch, wanted: Tensor, device: torch.device
    ) -> Tensor:
        """Losses [L, B], where `wanted` [L, B], else 0; each process measures its share."""
        table = torch.zeros(wanted.shape, dtype=torch.float64)
        for level in range(len(wanted)):
            shape = windows.latents.shape
            noise = torch.randn(shape, generator=generator_for("validation", level))
            mine = wanted[level].nonzero()[:, 0]
            if self._group is not None:
                mine = mine[self._group.share(len(mine))]
            for part in mine.split(self._batch):
                batch = windows.pick(part).to(device)
                logsnr = self.logsnr[level].expand(len(part)).to(device)
                losses = self._task.losses(denoise, batch, logsnr, noise[part].to(device))
                table[level, part] = losses.double().cpu()
        return table if self._group is None else self._group.sum(table)


def _mean(table: Tensor, wanted: Tensor) -> float:
    """Over the levels, of each level's mean over the windows wanted there."""
    return float((table * wanted).sum(dim=1).div(wanted.sum(dim=1)).mean())


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
