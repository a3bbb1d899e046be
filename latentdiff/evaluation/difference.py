"""How unlike latents are, clip by clip.

Shapes: B clips, C latent channels, T frames.
"""

from __future__ import annotations

import math

from torch import Tensor

UNRELATED = math.sqrt(2)
"""What samples that have nothing in common come to."""


def relative(a: Tensor, b: Tensor) -> float:
    """Root mean square of a - b over that of both, of latents [B, C, T].

    0: the same; UNRELATED: as unlike as white noise is from other white noise.
    """
    power = 0.5 * (a.double().square().mean() + b.double().square().mean())
    return float(((a.double() - b.double()).square().mean() / power.clamp(min=1e-30)).sqrt())
