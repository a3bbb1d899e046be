"""Which directions of latents are white noise over time: a model cannot learn those.

Shapes: C channels or directions, L lags, T frames of a file.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

LAGS = (1, 2, 3, 4)
"""Frames by which a direction is compared with itself."""
CORRELATED = 0.1
"""|autocorrelation| at any lag from which a direction counts as structured."""
CHANCE = 4.0
"""Standard errors, of the autocorrelation of white noise, that are put down to chance."""


def autocorrelation(files: Iterable[Tensor], lags: Iterable[int] = LAGS) -> tuple[Tensor, int]:
    """[L, C] of files [C, T], about the mean of each file, and the number of frames.

    Not about the common mean: differences between files would pass for structure over time.
    """
    lags = tuple(lags)
    products: Tensor | float = 0.0
    power: Tensor | float = 0.0
    frames = 0
    for file in files:
        z = file.double() - file.double().mean(dim=-1, keepdim=True)
        products = products + torch.stack([_product(z, lag) for lag in lags])
        power = power + z.square().sum(dim=-1)
        frames += z.shape[-1]
    return products / torch.as_tensor(power).clamp(min=1e-12), frames


def white(files: Iterable[Tensor]) -> Tensor:
    """[C] bool: True for channels of files [C, T] that are indistinguishable from white noise."""
    return is_white(*autocorrelation(files))


def is_white(correlation: Tensor, frames: int) -> Tensor:
    """[C] bool, from an autocorrelation [L, C] at LAGS (further lags are ignored)."""
    # White noise has a standard error of 1 / sqrt(frames): few frames, and it exceeds CORRELATED.
    limit = max(CORRELATED, CHANCE / max(frames, 1) ** 0.5)
    return torch.lt(correlation[: len(LAGS)].abs().amax(dim=0), limit)


def _product(z: Tensor, lag: int) -> Tensor:
    product: Tensor = (z[:, lag:] * z[:, : max(0, z.shape[-1] - lag)]).sum(dim=-1)
    return product
