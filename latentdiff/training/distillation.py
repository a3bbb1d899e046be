"""The task of a distilled model: one call at the start of each segment of a teacher's ODE.

Shapes: B batch, C latent channels, W frames of a window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from latentdiff.diffusion.distillation import Segment
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.specs import Condition, Denoise
from latentdiff.training.data import Batch, Windows
from latentdiff.training.task import BaselineLosses, Task

OBJECTIVE = Objective("x0")
"""The mean square error of the clean latents: the student is to hit its target, not a mean."""


@dataclass(frozen=True)
class DistillationTask(Task):
    """The loss is the distance to the teacher's samples, not to the windows.

    Windows, with noise, are where the teacher's ODE is entered; see `pair`.
    """

    costly_pairs: ClassVar[bool] = True

    segments: tuple[Segment, ...] = field(kw_only=True)
    """In the order in which they are sampled."""
    teacher: Denoise = field(kw_only=True)
    """The teacher as it is sampled from, with its autoguidance."""
    untrained: Denoise = field(kw_only=True)
    """The student before its first step: the baseline."""

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """log-SNR [B], each start of a segment in turn, and weights [B] of 1."""
        # Segments take turns over the batch, starting from a random one, so each gets its share.
        first = torch.randint(len(self.segments), (), generator=generator)
        logsnr = self._starts[(first + torch.arange(batch)) % len(self.segments)]
        return logsnr, torch.ones(batch)

    def levels(self, count: int) -> Tensor:
        """log-SNRs of the student's calls, clean to noisy, whatever `count`."""
        return self._starts.flip(0)

    def pair(self, batch: Batch, logsnr: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The student's target [B, C, W], and the noise that makes z_t of it.

        z_t is that of the windows and `noise`; at the first level it is `noise` itself, from which
        sampling starts.
        """
        alpha, sigma = alpha_sigma(logsnr[:, None, None])
        segment_of = (logsnr[:, None] - self._starts.to(logsnr.device)).abs().argmin(dim=1)
        first = (segment_of == 0)[:, None, None]
        z = torch.where(first, noise, alpha * batch.latents + sigma * noise)
        target = torch.empty_like(z)
        for number, segment in enumerate(self.segments):
            mine = (segment_of == number).nonzero()[:, 0]
            if len(mine):
                condition = batch.condition.pick(mine)
                target[mine] = segment.target(self.teacher, z[mine], condition)
        return target, (z - alpha * target) / sigma

    def baseline(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """The student before its first step: a single call of the teacher's network."""
        return self.untrained(z_t, logsnr, condition)

    def baseline_losses(self, windows: Windows, levels: int = 64) -> BaselineLosses | None:
        """None: the teacher has no closed form."""
        return None

    @property
    def _starts(self) -> Tensor:
        return torch.tensor([segment.start for segment in self.segments])
