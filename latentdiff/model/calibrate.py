"""The autoguidance at which a model's samples come nearest to the training latents.

Shapes: B samples, C latent channels, T frames of a window.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
from torch import Tensor

from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation import movement
from latentdiff.evaluation.scores import Described, Reference
from latentdiff.model.model import AUTOGUIDANCE, Model, NonFiniteSamples
from latentdiff.model.sampling import draw_like
from latentdiff.tracking import progress
from latentdiff.training import checkpoint
from latentdiff.training.data import Batch

log = logging.getLogger(__name__)

SCALES = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
"""Strengths tried in rising order until samples get no closer. None is below 1: samples that are
too strong have another cause."""


def calibrate(path: Path, windows: Batch, settings: SamplingConfig, device: str) -> float:
    """Find the autoguidance of the checkpoint at `path` and write it into its header.

    Samples as long as `windows` [B, C, T] of training files follow their conditions; the scale
    found is the one with the least energy distance between the two, window by window, measured on
    the features by which `evaluate` scores latents.
    The draws depend on nothing but the checkpoint, the windows and the settings.
    """
    model = Model.load(path, device)
    deviation = model.whitening.variance[:, None].cpu().sqrt()
    whole = windows.mask.all(dim=1)
    real = windows.latents[whole] if whole.any() else windows.latents
    if real.shape[-1] < movement.SHORTEST:
        return 1.0
    rate = model.codec.frame_rate

    def describe(latents: Tensor) -> Described:
        return Described(movement.describe_latents(latents / deviation, rate))

    reference = Reference(describe(real))
    distances: list[float] = []
    spreads: list[float] = []
    with progress(SCALES, unit="draw", what="calibrating the strength of samples") as scales:
        for scale in scales:
            drawn = _draw(model, windows, settings.model_copy(update={"autoguidance": scale}))
            # Not finite: too strong.
            distances.append(math.inf if drawn is None else reference.distance(describe(drawn)))
            spreads.append(math.inf if drawn is None else _spread(drawn / deviation))
            if len(distances) > 1 and not distances[-1] < distances[-2]:
                break
    best = nearest(distances)
    weights = checkpoint.load_weights(path)
    checkpoint.save_weights(path, weights.tensors, {**weights.header, AUTOGUIDANCE: best})
    log.info(
        "%s: samples have %.2f of the training latents' spread without autoguidance, %.2f with "
        "autoguidance %.2f, which is kept",
        path.name,
        spreads[0],
        np.interp(best, SCALES[: len(spreads)], spreads),
        best,
    )
    return best


def _draw(model: Model, windows: Batch, settings: SamplingConfig) -> Tensor | None:
    """Final latents [B, C, T]; None where they are not finite."""
    try:
        return draw_like(model, windows, settings)
    except NonFiniteSamples:
        return None


def _spread(latents: Tensor) -> float:
    return float(latents.square().mean().sqrt())


def nearest(distances: list[float]) -> float:
    """The scale of the least distance: the vertex of a parabola where it lies between others."""
    least = int(np.argmin(distances))
    if least == 0 or least == len(distances) - 1 or not math.isfinite(distances[-1]):
        return SCALES[least]
    before, here, after = distances[least - 1 : least + 2]
    step = SCALES[1] - SCALES[0]
    return round(SCALES[least] + 0.5 * step * (before - after) / (before - 2 * here + after), 3)
