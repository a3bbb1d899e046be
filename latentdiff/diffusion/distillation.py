"""Targets for a model of few network calls: segments of the probability-flow ODE of another model.

The student makes one call at the start of each segment and moves in a straight line, as `euler`
does. Its target there is the estimate of the clean latents that makes this one move end where the
teacher's ODE ends, solved in several calls. This is progressive distillation (Salimans and Ho 2022,
arXiv 2202.00512, sec. 3, app. G) in one round: every segment is its own, from one fixed level to
the next, so the student learns only the levels that it will be called at.

Shapes: B batch, C latent channels, T latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from latentdiff.diffusion.methods import NoiseLevel, SamplerState
from latentdiff.diffusion.noise import Schedule
from latentdiff.diffusion.samplers import integrate, logistic_logsnrs, make_logsnrs, walk
from latentdiff.specs import Condition, Denoise

SOLVER = "dpmpp-2m"
"""Sampler that solves the teacher's ODE."""
STUDENT = "euler"
"""Sampler of distilled models."""


@dataclass(frozen=True)
class Segment:
    """A stretch of the teacher's ODE that the student takes in one call."""

    logsnrs: tuple[float, ...]
    """Rising levels of the teacher's solver; the student's call is at the first."""
    clean: bool
    """Whether a last call of the teacher, at the last level, ends it with clean latents; if not, it
    ends at that level."""

    @property
    def start(self) -> float:
        """Log-SNR of the student's call."""
        return self.logsnrs[0]

    @torch.no_grad()
    def target(self, teacher: Denoise, z: Tensor, condition: Condition) -> Tensor:
        """The student's estimate of z_0 [B, C, T] for z [B, C, T] at `start`."""
        state = SamplerState(teacher, condition, _no_noise)
        if self.clean:
            return integrate(state, z, self.logsnrs, SOLVER)
        end = walk(state, z, self.logsnrs, SOLVER)
        here, there = (NoiseLevel.at(self.logsnrs[k]) for k in (0, -1))
        # euler moves to there.alpha z_0 + there.sigma (z - here.alpha z_0) / here.sigma. That is
        # `end` for this z_0.
        kept = there.sigma / here.sigma
        return (end - kept * z) / (there.alpha - kept * here.alpha)


def make_segments(levels: Sequence[float], calls: int, schedule: Schedule) -> list[Segment]:
    """The segments that start at rising `levels`, with `calls` >= 2 teacher calls in each.

    The last one has its last call where a sampler of as many calls in all has it.
    Raises ValueError for levels that are outside of the schedule, or not below that call.
    """
    clean = make_logsnrs(schedule, len(levels) * calls)[-1]
    if levels[0] < schedule.logsnr_min or levels[-1] >= clean:
        raise ValueError(f"levels must lie between {schedule.logsnr_min:g} and {clean:.3g}")
    segments = []
    for level, end in zip_longest(levels, levels[1:]):
        # The call at the end of a segment is the next one's first.
        count = calls if end is None else calls + 1
        logsnrs = logistic_logsnrs(level, clean if end is None else end, count)
        # Exactly the level that the student knows, whatever the rounding.
        segments.append(Segment((level, *logsnrs[1:]), clean=end is None))
    return segments


def _no_noise() -> Tensor:
    raise AssertionError(f"{SOLVER} solves an ODE, which has no fresh noise")
