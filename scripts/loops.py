"""Trainers on made-up latents, for the scripts that measure the trainer itself.

Shapes: C latent channels, F frames of all files together.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latentdiff import runs
from latentdiff.config import build
from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import build_noise_level_sampler
from latentdiff.diffusion.loss import Objective
from latentdiff.model.project import Project
from latentdiff.training.data import Recording, Windows
from latentdiff.training.task import Task
from latentdiff.training.trainer import Trainer

FRAMES = 40_000
FRAME_RATE = 44100 / 2048
"""Latent frames a second of RAVE v2 at 44.1 kHz."""


@dataclass(frozen=True)
class Parts:
    """The parts of a trainer."""

    project: Project
    denoiser: Denoiser
    task: Task
    windows: Windows


def slow_noise(rng: np.random.Generator, channels: int, frames: int) -> np.ndarray:
    """[C, F] of AR(1) noise, unit variance, correlated over some ten frames."""
    kept = 0.9
    fresh = rng.standard_normal((channels, frames), dtype=np.float32) * (1 - kept**2) ** 0.5
    out = np.empty_like(fresh)
    last = rng.standard_normal(channels, dtype=np.float32)
    for frame in range(frames):
        last = kept * last + fresh[:, frame]
        out[:, frame] = last
    return out


def make_parts(values: dict[str, Any], latents: np.ndarray) -> Parts:
    """Parts from the settings `values` (YAML sections), on unwhitened latents [C, F]."""
    project = build(Project, values)
    channels = latents.shape[0]
    denoiser = project.recipe.make_denoiser(channels=channels)
    schedule = noise.build(project.diffusion.schedule)
    levels = build_noise_level_sampler(project.diffusion.levels, schedule)
    task = Task(Objective.from_config(project.diffusion), schedule, levels)
    windows = Windows([Recording("noise", latents)], project.training.window, whiten=_same)
    return Parts(project, denoiser, task, windows)


def fit_metrics(parts: Parts, device: str) -> list[dict[str, Any]]:
    """Train in a temporary folder until the budget is spent; returns the rows of metrics."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            parts.denoiser,
            parts.task,
            parts.windows,
            None,
            parts.project.training,
            Path(scratch),
            device=device,
            frame_rate=FRAME_RATE,
        )
        trainer.fit()
        return runs.read_jsonl(Path(scratch) / "metrics.jsonl")


def _same(z: Tensor) -> Tensor:
    return z
