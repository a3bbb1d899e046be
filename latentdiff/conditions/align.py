"""Features that another program stored, brought to the frames of the latents.

Shapes: K condition features, M feature frames, T latent frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latentdiff.conditions.kind import SpectralKind
from latentdiff.conditions.resample import resample_time
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLACK = 2
"""Latent frames by which the lengths may differ: programs cut and pad ends in their own ways."""

LEEWAY = 0.01
"""By which values may be below 0 or above 1."""


def align(
    features: NDArray[np.floating], kind: SpectralKind, frames: int, frame_rate: float, what: str
) -> NDArray[np.floating]:
    """Features [K, M] or [M, K] => [K, frames], one column a latent frame.

    With M = frames they are taken to be aligned already; else their own frames must be those of
    `kind`, at latents of `frame_rate` Hz. `what` names them. Raises UserError where neither holds,
    where they have another K, or values beyond 0..1.
    """
    if features.shape[0] != kind.size == features.shape[1]:
        features = features.T
    if features.shape[0] != kind.size:
        raise UserError(
            f"{what} is {list(features.shape)}, not [{kind.size}, frames]",
            why=f"samples follow a {kind.name} of {kind.size} bands",
            do_this=f"set condition.{kind.name} to what it was made with, such as "
            f"condition.{kind.name}.bands={features.shape[0]}.",
        )
    low, high = float(features.min()), float(features.max())
    if not -LEEWAY <= low <= high <= 1 + LEEWAY:
        raise UserError(
            f"{what} holds values from {low:.3g} to {high:.3g}",
            why=f"a {kind.name} is DiffWave's here, from 0 to 1, and so is the one that samples "
            "are to follow",
            do_this="make it again as DiffWave does, or scale it.",
        )
    count = features.shape[1]
    if count == frames:
        return features
    ratio = kind.sample_rate / kind.hop / frame_rate
    if abs(count - ratio * frames) > SLACK * ratio + 1:
        raise UserError(
            f"{what} has {count} frames for {frames} of the latents",
            why=f"that is {count / frames:.3g} to each; condition.{kind.name} (hop {kind.hop} at "
            f"{kind.sample_rate} Hz) makes {ratio:.3g} at {frame_rate:.4g} latent frames a second",
            do_this=f"set condition.{kind.name}.hop and condition.{kind.name}.sample_rate to what "
            "it was made with, and data.sample_rate and latents.hop to those of the codec.",
        )
    return resample_time(np.asarray(features, np.float32), frames, ratio)
