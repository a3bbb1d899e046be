"""All randomness of a training step, drawn from (seed, step) and nothing else.

No state of a random generator is ever saved: a generator is made anew from (seed, step, purpose)
for every draw. So a resumed run draws what the uninterrupted one would have drawn, windows fetched
ahead change nothing, and every process can draw the whole batch and keep its share.

Shapes: B windows of this process in a step, C latent channels, W frames of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import ConditionDropout
from latentdiff.specs import Condition
from latentdiff.training.data import Batch, Windows, generator_for
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.task import Task


class StepBatch(NamedTuple):
    """One step's windows, noise levels and noise."""

    batch: Batch
    logsnr: Tensor
    """[B]."""
    weight: Tensor
    """[B] factor of each loss; ones unless the noise-level sampler is adaptive."""
    noise: Tensor
    """[B, C, W]."""

    def parts(self, count: int) -> Iterator[StepBatch]:
        """The same windows in order, in `count` (at most B) parts as equal as possible."""
        size = len(self.logsnr)
        count = min(count, size)
        for k in range(count):
            part = slice(k * size // count, (k + 1) * size // count)
            yield StepBatch(
                self.batch.pick(part), self.logsnr[part], self.weight[part], self.noise[part]
            )


@dataclass(frozen=True)
class BatchSampler:
    """Draws the batches of steps: all processes draw the same batch, each keeps its share.

    If windows come from a disk, or the network runs on a GPU, those of the next step are fetched
    while this one is computed.
    """

    windows: Windows
    task: Task
    batch: int
    """Windows per step, over all processes."""
    dropout: ConditionDropout
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
        # Drawn on the device: for a large batch a CPU would take longer than a GPU for its step.
        # The whole batch is drawn, as a share's noise must not depend on the number of processes.
        generator = generator_for(self.seed, step, "noise", device=self.device)
        noise = torch.randn(shape, generator=generator, device=self.device)[mine]
        return StepBatch(
            batch._replace(condition=condition).to(self.device),
            logsnr[mine].to(self.device),
            weight[mine].to(self.device),
            noise if self.task.transform_noise is None else self.task.transform_noise(noise),
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
        chance = self._generator(step, "dropout")
        # Of the whole batch, so that a share's draws do not depend on the number of processes.
        keep = self.dropout.draw(batch.condition.values, self.batch, chance)
        return batch.condition.restricted({kind: each[mine] for kind, each in keep.items()})

    def _generator(self, step: int, purpose: str) -> torch.Generator:
        return generator_for(self.seed, step, purpose)
