"""All that is random about a training step, drawn from (seed, step) and nothing else.

Shapes: B windows of this process in a step, C latent channels, W frames of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import dropped
from latentdiff.specs import Condition
from latentdiff.training.data import Batch, Windows, generator_for
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.task import Task


class StepBatch(NamedTuple):
    """One step's windows, levels and noise."""

    batch: Batch
    logsnr: Tensor
    """[B]."""
    weight: Tensor
    """[B] of the loss at that level; ones but where levels are drawn where the loss is."""
    noise: Tensor
    """[B, C, W]."""

    def parts(self, count: int) -> Iterator[StepBatch]:
        """The same, window after window, in `count` parts (at most B) as equal as can be."""
        size = len(self.logsnr)
        count = min(count, size)
        for k in range(count):
            part = slice(k * size // count, (k + 1) * size // count)
            yield StepBatch(
                self.batch.pick(part), self.logsnr[part], self.weight[part], self.noise[part]
            )


@dataclass(frozen=True)
class BatchSampler:
    """Draws steps. All processes draw the same batch, and each keeps its share of it.

    Where the windows come from a disk, or are cut beside a GPU at work, those of the next step are
    fetched while this one is computed.
    """

    windows: Windows
    task: Task
    batch: int
    """Windows of a step, over all processes."""
    dropout: float
    """Chance of a window to lose its condition."""
    seed: int
    group: ProcessGroup
    device: torch.device
    _ahead: dict[int, Future[Batch]] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="windows")
    )

    def draw(self, step: int) -> StepBatch:
        """This process's share of a step."""
        mine = self.group.share(self.batch)
        batch = self._fetch(step)
        logsnr, weight = self.task.draw(self.batch, self._generator(step, "levels"))
        condition = self._dropped(batch, step, mine)
        shape = (self.batch, *batch.latents.shape[1:])
        # On the device itself: at a large batch a CPU would need longer than a GPU for its step.
        generator = generator_for(self.seed, step, "noise", device=self.device)
        noise = torch.randn(shape, generator=generator, device=self.device)[mine]
        return StepBatch(
            batch._replace(condition=condition).to(self.device),
            logsnr[mine].to(self.device),
            weight[mine].to(self.device),
            noise if self.task.noise is None else self.task.noise(noise),
        )

    def _fetch(self, step: int) -> Batch:
        """This process's windows of a step."""
        coming = self._ahead.pop(step, None)
        batch = self._cut(step) if coming is None else coming.result()
        if self.windows.slow or self.device.type == "cuda":
            self._ahead.clear()
            self._ahead[step + 1] = self._thread.submit(self._cut, step + 1)
        return batch

    def _cut(self, step: int) -> Batch:
        share = self.group.share(self.batch)
        return self.windows.draw(self.batch, self._generator(step, "windows"), share)

    def _dropped(self, batch: Batch, step: int, mine: slice) -> Condition:
        if batch.condition.features is None and batch.condition.label is None:
            return batch.condition
        chance = self._generator(step, "dropout")
        everyone = dropped(batch.condition, self.dropout, self.batch, chance).given
        return batch.condition._replace(given=None if everyone is None else everyone[mine])

    def _generator(self, step: int, purpose: str) -> torch.Generator:
        return generator_for(self.seed, step, purpose)
