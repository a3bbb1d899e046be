"""How strong a model's samples come out, and the autoguidance that makes them strong enough.

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
from latentdiff.experiments import sampling
from latentdiff.specs import Condition
from latentdiff.tracking import progress
from latentdiff.training import checkpoint
from latentdiff.training.data import Batch, seed_of
from latentdiff.workflows.model import AUTOGUIDANCE, Model

log = logging.getLogger(__name__)

SCALES = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
"""Tried in turn until samples are as strong as what they are to be like."""


def calibrate(path: Path, windows: Batch, settings: SamplingConfig, device: str) -> float:
    """Find the autoguidance of the checkpoint at `path` and write it into its header.

    With it, samples as long as `windows` [B, C, T] of training files, following their conditions,
    have the mean square of these, all channels relative to their variance. Nothing is drawn beyond
    the first scale where that is reached, and none is below 1: samples that are too strong have
    another cause. Its draws depend on nothing but the checkpoint, the windows and the settings.
    """
    model = Model.load(path, device)
    variance = model.whitening.variance[:, None].cpu()
    wanted = _power(windows.latents.transpose(1, 2)[windows.mask].T / variance.sqrt())
    spreads: list[float] = []
    with progress(SCALES, unit="draw", what="calibrating the strength of samples") as scales:
        for scale in scales:
            drawn = draw(model, windows, settings.model_copy(update={"autoguidance": scale}))
            spreads.append(_power(drawn / variance.sqrt()) / wanted)
            if not spreads[-1] < 1.0:
                break
    found = crossing(spreads)
    weights = checkpoint.load_weights(path)
    checkpoint.save_weights(path, weights.tensors, {**weights.header, AUTOGUIDANCE: found})
    log.info(
        "samples have %.2f of the training latents' spread by themselves; autoguidance %.2f "
        "brings that to %.2f (%s)",
        spreads[0] ** 0.5,
        found,
        np.interp(found, SCALES[: len(spreads)], spreads) ** 0.5,
        path.name,
    )
    return found


def _power(x: Tensor) -> float:
    return float(x.double().square().mean())


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


def crossing(powers: list[float]) -> float:
    """The scale at which the power reaches 1, on a straight line between the two around it."""
    sound = [power for power in powers if math.isfinite(power)]
    if len(sound) < len(powers) or sound[-1] < 1.0 or len(sound) == 1:
        # It never gets there, or breaks before it does, or needs no help.
        return SCALES[max(0, len(sound) - 1)]
    return round(float(np.interp(1.0, sound[-2:], SCALES[len(sound) - 2 : len(sound)])), 3)
