"""Trainers on made-up latents, and what the device can do at most, for the benchmarks.

Shapes: C latent channels, F frames of all files together.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.config import build
from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import build_noise_level_sampler
from latentdiff.diffusion.loss import Objective
from latentdiff.model.project import Project
from latentdiff.networks.build import describe
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


class UncompiledError(Exception):
    """torch.compile failed; the trainer has warned and trained uncompiled."""


def measure_training(values: dict[str, Any], latents: np.ndarray, device: str) -> dict[str, Any]:
    """Train as `values` say, which must ask for two lines of metrics; the second one counts.

    With the network's `parameters`, and the `flops` of a step. Raises UserError where the training
    fails, and UncompiledError.
    """
    parts = make_parts(values, latents)
    settings = parts.project.training
    known = describe(parts.denoiser.network, frames=settings.window)
    line = fit_metrics(parts, device)[1]
    if settings.compile and parts.denoiser._compiled_call_impl is None:
        raise UncompiledError("torch.compile failed")
    # A backward pass has twice the products of a forward pass.
    flops = 3 * known.flops * settings.batch * settings.window
    return {**line, "flops": flops, "parameters": known.parameters}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within it, CUDA computes 32-bit products and convolutions in TF32, or does not."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


def product_limit(device: str, kind: torch.dtype, size: int) -> float:
    """Operations a second of a product of two matrices of `size` x `size`; the best of ten."""
    a = torch.randn(size, size, device=device).to(kind)
    best = 0.0
    for _ in range(10):
        synchronize(device)
        begun = time.perf_counter()
        a @ a
        synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def synchronize(device: str) -> None:
    """Wait for the device to finish what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def _same(z: Tensor) -> Tensor:
    return z
