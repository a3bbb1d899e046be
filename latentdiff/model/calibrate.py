"""How strong a model's samples come out, and the autoguidance that brings them nearest.

Shapes: B samples, C latent channels, K condition features, T frames of a window.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation import windows as cut
from latentdiff.evaluation.frechet import Gaussian, distance
from latentdiff.model.model import AUTOGUIDANCE, Model
from latentdiff.notebook.experiments import sampling
from latentdiff.specs import Condition
from latentdiff.tracking import progress
from latentdiff.training import checkpoint
from latentdiff.training.data import Batch, seed_of

log = logging.getLogger(__name__)

SCALES = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
"""Tried in turn, as long as samples come nearer."""


def calibrate(path: Path, windows: Batch, settings: SamplingConfig, device: str) -> float:
    """Find the autoguidance of the checkpoint at `path` and write it into its header.

    Of samples as long as `windows` [B, C, T] of training files, following their conditions, those
    drawn with it have the least Frechet distance to these windows, as `evaluate` measures it. None
    is below 1: samples that are too strong have another cause. Its draws depend on nothing but the
    checkpoint, the windows and the settings.
    """
    model = Model.load(path, device)
    deviation = model.whitening.variance[:, None].cpu().sqrt()
    whole = windows.mask.all(dim=1)
    real = windows.latents[whole] if whole.any() else windows.latents
    reference = Gaussian.fit(cut.features(real / deviation))
    distances: list[float] = []
    spreads: list[float] = []
    with progress(SCALES, unit="draw", what="calibrating the strength of samples") as scales:
        for scale in scales:
            drawn = draw(model, windows, settings.model_copy(update={"autoguidance": scale}))
            distances.append(_apart(reference, drawn / deviation))
            spreads.append(float((drawn / deviation).square().mean().sqrt()))
            if len(distances) > 1 and not distances[-1] < distances[-2]:
                break
    found = nearest(distances)
    weights = checkpoint.load_weights(path)
    checkpoint.save_weights(path, weights.tensors, {**weights.header, AUTOGUIDANCE: found})
    log.info(
        "samples have %.2f of the training latents' spread by themselves; autoguidance %.2f brings "
        "them nearest to these, with %.2f of their spread (%s)",
        spreads[0],
        found,
        np.interp(found, SCALES[: len(spreads)], spreads),
        path.name,
    )
    return found


def _apart(reference: Gaussian, drawn: Tensor) -> float:
    """Frechet distance; infinite where samples are not finite."""
    if not torch.isfinite(drawn).all():
        return math.inf
    return distance(reference, Gaussian.fit(cut.features(drawn)))


def draw(model: Model, windows: Batch, settings: SamplingConfig) -> Tensor:
    """Final latents [B, C, T], one for each window."""
    device = next(model.denoiser.parameters()).device
    parts = []
    for index in torch.arange(len(windows.files)).split(settings.batch):
        part = windows.pick(index).to(device)
        # As evaluation does: what has no condition is given none, else each window's own.
        told = Condition(part.condition.features, part.condition.label)
        seeds = [seed_of("calibrate", int(k)) for k in index]
        channels, frames = part.latents.shape[1:]
        x = sampling.sample(
            model.experiment,
            sampling.as_sampled(model.experiment, model.denoiser, settings.steps),
            model.schedule,
            settings,
            seeds,
            channels,
            frames,
            told,
            device,
            variance=model.whitening.variance,
        )
        parts.append(x.float().cpu())
    return torch.cat(parts)


def nearest(distances: list[float]) -> float:
    """The scale of the least distance: by a parabola through the last three, where one lies
    between others."""
    least = int(np.argmin(distances))
    if least == 0 or least == len(distances) - 1 or not math.isfinite(distances[-1]):
        return SCALES[least]
    before, here, after = distances[least - 1 : least + 2]
    step = SCALES[1] - SCALES[0]
    return round(SCALES[least] + 0.5 * step * (before - after) / (before - 2 * here + after), 3)
