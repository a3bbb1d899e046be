"""Drawing many samples from a model, a batch at a time.

Shapes: B samples, C latent channels, K condition features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentdiff.diffusion.samplers import Start
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.model.model import Model, Samples
from latentdiff.specs import NO_CONDITION, Condition
from latentdiff.tracking import progress
from latentdiff.training.data import Batch, seed_of


def draw(
    model: Model,
    settings: SamplingConfig,
    seeds: Sequence[int],
    frames: int,
    condition: Condition = NO_CONDITION,
    start: Start | None = None,
) -> Samples:
    """One sample for each seed, `settings.batch` at a time, with a progress bar.

    Where there are fewer rows in `condition` than seeds, they are taken in turn, again and again.
    `start`, what to vary, has a row for each seed.
    Raises NonFiniteSamples.
    """
    parts, calls = [], 0
    steps = "" if model.spec.is_regression else f", {model.resolve(settings).steps} steps"
    with progress(total=len(seeds), unit="sample", what=f"sampling{steps}") as bar:
        for begin in range(0, len(seeds), settings.batch):
            part = seeds[begin : begin + settings.batch]
            rows = torch.arange(begin, begin + len(part))
            turn = condition.pick(rows % condition.batch) if condition else condition
            first = None if start is None else start.pick(rows)
            samples = model.sample(settings, part, frames, turn, first)
            parts.append(samples.latents)
            calls = samples.network_calls
            bar.update(len(part))
    return Samples(torch.cat(parts), calls)


def draw_like(model: Model, windows: Batch, settings: SamplingConfig) -> Tensor:
    """Final latents [B, C, T]: a sample for each window, of its length and condition.

    The draws depend on nothing but the model, the windows and the settings.
    """
    parts = []
    frames = windows.latents.shape[-1]
    for rows in torch.arange(len(windows.files)).split(settings.batch):
        part = windows.pick(rows)
        seeds = [seed_of("calibrate", int(row)) for row in rows]
        parts.append(model.sample(settings, seeds, frames, part.condition).latents)
    return torch.cat(parts)
