"""Validation that is comparable from step to step: same windows, same noise, same levels.

Shapes: B windows, C latent channels, K condition features, L noise levels, W frames.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentdiff.specs import Denoise
from latentdiff.training.data import Batch, generator_for
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.task import Task


@dataclass(frozen=True)
class Validation:
    """Losses on held-out windows, each with that of the task's baseline.

    Lists hold one value per noise level, from clean to noisy.
    """

    logsnr: list[float]
    """The noise levels."""
    losses: list[float]
    """Mean loss over the windows."""
    baselines: list[float]
    """The same of the task's baseline, on the same windows and noise."""
    shuffled: float | None
    """Mean loss with the conditions exchanged among windows; None = no condition, or one window."""
    exchanged: Mapping[str, float] = field(default_factory=dict)
    """Kind -> mean loss with the conditions of that kind alone exchanged among windows."""
    shifted: Mapping[str, float] = field(default_factory=dict)
    """Kind -> mean loss with the features of that kind alone moved along time; not for kinds that
    are constant in every window."""
    raw: float | None = None
    """Mean loss of the raw (not averaged) weights; None = not measured."""
    training: float | None = None
    """Mean loss on windows of the training files, at the same levels; None = not measured."""
    training_baseline: float | None = None
    """The baseline of `training`; None = not measured."""
    halflife: float | None = None
    """EMA half-life (windows) of the weights measured; None = the one that follows the budget."""
    averages: list[float] | None = None
    """Mean loss of each average, in the order of the settings; None = there is only one."""

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return sum(self.losses) / len(self.losses)

    @property
    def baseline(self) -> float:
        """Mean of `baselines`."""
        return sum(self.baselines) / len(self.baselines)

    @property
    def skill(self) -> float:
        """1 - loss / baseline: 0 = learned nothing, 1 = perfect."""
        return 1.0 - self.loss / self.baseline

    @property
    def training_skill(self) -> float | None:
        """`skill` on windows of the training files; None = not measured."""
        if self.training is None or self.training_baseline is None:
            return None
        return 1.0 - self.training / self.training_baseline

    @property
    def conditioning_gain(self) -> float | None:
        """Relative rise of the loss when conditions are exchanged; 0 = they are ignored.

        None = no condition, or one window.
        """
        return None if self.shuffled is None else self._gain(self.shuffled)

    @property
    def gains(self) -> dict[str, float]:
        """Kind -> relative rise of the loss when that kind alone is exchanged."""
        return {kind: self._gain(loss) for kind, loss in self.exchanged.items()}

    @property
    def shift_gains(self) -> dict[str, float]:
        """Kind -> relative rise of the loss when that kind alone is moved along time."""
        return {kind: self._gain(loss) for kind, loss in self.shifted.items()}

    def _gain(self, loss: float) -> float:
        return loss / self.loss - 1.0

    def metrics(self) -> dict[str, float]:
        """Everything by name, for the metrics file."""
        values = {"loss": self.loss, "baseline": self.baseline, "skill": self.skill}
        further = {
            "conditioning_gain": self.conditioning_gain,
            "raw_loss": self.raw,
            "training_loss": self.training,
            "training_baseline": self.training_baseline,
            "training_skill": self.training_skill,
        }
        for kind, gain in self.gains.items():
            further[f"conditioning_gain_{kind}"] = gain
        for kind, gain in self.shift_gains.items():
            further[f"shift_gain_{kind}"] = gain
        for number, loss in enumerate(self.averages or []):
            further[f"loss_of_average_{number}"] = loss
        values.update({name: value for name, value in further.items() if value is not None})
        for level, loss, base in zip(self.logsnr, self.losses, self.baselines, strict=True):
            values[f"loss@{level:+.1f}"] = loss
            values[f"baseline@{level:+.1f}"] = base
            values[f"skill@{level:+.1f}"] = 1.0 - loss / base
        return values


class Validator:
    """Measures denoisers on fixed windows; nothing it draws depends on the step.

    `levels`: noise levels that every window is measured at. `batch`: windows per call of the
    denoiser. `thin`: secondary losses (exchanged conditions, raw weights) are measured on each
    window at one in `thin` levels only, as a ratio to the main loss on the same pairs.
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
        # A diagonal pattern, so that no level and no window is left out; that needs enough of both.
        enough = thin if count >= 2 * thin and found >= thin else 1
        offset = torch.arange(found)[:, None] + torch.arange(count)
        self._some = offset % enough == 0
        self._baselines: Tensor | None = None
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def measure(
        self, denoise: Denoise, device: torch.device, *, raw: Denoise | None = None
    ) -> Validation:
        """Losses of `denoise` with the right conditions and, if there are any, exchanged ones.

        `raw`: the same model with its raw weights.
        """
        table = self._table(denoise, self.windows, self._all, device)
        baselines = self._known(device)
        loss = float(table.mean())

        def loss_with(windows: Batch) -> float:
            return loss * self._ratio(denoise, windows, table, device)

        kinds = list(self.windows.condition.values)
        exchanged = {
            kind: loss_with(wrong)
            for kind in kinds
            if (wrong := exchange(self.windows, [kind])) is not None
        }
        everything = exchange(self.windows, kinds) if len(kinds) > 1 else None
        return Validation(
            self.logsnr.tolist(),
            table.mean(dim=1).tolist(),
            baselines.mean(dim=1).tolist(),
            shuffled=next(iter(exchanged.values()), None)
            if everything is None
            else loss_with(everything),
            exchanged=exchanged,
            shifted={kind: loss_with(shift(self.windows, kind)) for kind in moving(self.windows)},
            raw=None if raw is None else loss * self._ratio(raw, self.windows, table, device),
        )

    @torch.no_grad()
    def brief(self, denoise: Denoise, device: torch.device) -> tuple[float, float]:
        """Mean loss and baseline of `denoise`, on the thinned pairs only."""
        table = self._table(denoise, self.windows, self._some, device)
        return _mean(table, self._some), _mean(self._known(device), self._some)

    @torch.no_grad()
    def table(self, denoise: Denoise, windows: Batch, device: torch.device) -> Tensor:
        """[L, B] losses on `windows`: those of this validator, with these or other conditions."""
        return self._table(denoise, windows, self._all, device)

    def _ratio(
        self, denoise: Denoise, windows: Batch, whole: Tensor, device: torch.device
    ) -> float:
        # Of losses on the same windows, levels and noise, so the luck of the pairs cancels out.
        table = self._table(denoise, windows, self._some, device)
        return _mean(table, self._some) / _mean(whole, self._some)

    def _known(self, device: torch.device) -> Tensor:
        if self._baselines is None:
            known = self._task.baseline
            self._baselines = self._table(known, self.windows, self._all, device)
        return self._baselines

    def _table(
        self, denoise: Denoise, windows: Batch, wanted: Tensor, device: torch.device
    ) -> Tensor:
        """Losses [L, B] of the `wanted` [L, B] pairs, else 0; each process measures its share."""
        table = torch.zeros(wanted.shape, dtype=torch.float64)
        for level in range(len(wanted)):
            latents, noise = self._pair(level, device)
            mine = wanted[level].nonzero()[:, 0]
            if self._group is not None:
                mine = mine[self._group.share(len(mine))]
            for part in mine.split(self._batch):
                batch = windows.pick(part)._replace(latents=latents[part]).to(device)
                logsnr = self.logsnr[level].expand(len(part)).to(device)
                losses = self._task.losses(denoise, batch, logsnr, noise[part].to(device))
                table[level, part] = losses.double().cpu()
        return table if self._group is None else self._group.sum(table)

    def _pair(self, level: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Clean latents and noise [B, C, W] of all windows, under their own conditions."""
        # Of all windows, whichever are wanted: a window's noise must not depend on the others.
        shape = self.windows.latents.shape
        noise = torch.randn(shape, generator=generator_for("validation", level))
        if not self._task.costly_pairs:
            return self.windows.latents, noise
        if level not in self._pairs:
            parts = [
                self._task.pair(
                    self.windows.pick(part).to(device),
                    self.logsnr[level].expand(len(part)).to(device),
                    noise[part].to(device),
                )
                for part in torch.arange(len(noise)).split(self._batch)
            ]
            latents, noise = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
            self._pairs[level] = latents, noise
        return self._pairs[level]


def _mean(table: Tensor, wanted: Tensor) -> float:
    """Mean over levels of the mean over each level's selected windows: levels count equally."""
    return float((table * wanted).sum(dim=1).div(wanted.sum(dim=1)).mean())


def exchange(windows: Batch, kinds: Collection[str]) -> Batch | None:
    """The windows, each with these conditions of the one half a set away (mostly another file's).

    None without conditions, or with one window only.
    """
    count = len(windows.files)
    if count < 2 or not kinds:
        return None
    order = (torch.arange(count) + count // 2) % count
    return windows._replace(condition=windows.condition.replaced_by(order, kinds))


def shift(windows: Batch, kind: str) -> Batch:
    """The windows, with the features of a kind moved by a third of a window, around its end."""
    features = windows.condition.values[kind]
    moved = features.roll(features.shape[-1] // 3, dims=-1)
    condition = windows.condition.with_kind(kind, moved, windows.condition.given.get(kind))
    return windows._replace(condition=condition)


def moving(windows: Batch) -> list[str]:
    """The kinds of features that change along a window."""
    return [
        kind
        for kind, x in windows.condition.values.items()
        if x.ndim == 3 and not torch.equal(x[..., :1].expand_as(x), x)
    ]
