"""The relative difference between two sets of latents, clip by clip.

Shapes: B clips, C latent channels, T frames.
"""

from __future__ import annotations

import math

from torch import Tensor

UNRELATED = math.sqrt(2)
"""The difference between independent samples of zero mean and equal power."""


def relative(a: Tensor, b: Tensor) -> float:
    """RMS of a - b over the RMS of both together, of latents [B, C, T].

    0: identical; UNRELATED: as different as two draws of white noise.
    """
    power = 0.5 * (a.double().square().mean() + b.double().square().mean())
    return float(((a.double() - b.double()).square().mean() / power.clamp(min=1e-30)).sqrt())
