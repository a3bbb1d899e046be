"""Which directions of latents are white noise along time: nothing that a model could learn.

Shapes: C channels or directions, L lags, T frames of a file.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

LAGS = (1, 2, 3, 4)
"""Frames between two moments that are compared."""
CORRELATED = 0.1
"""|autocorrelation| at some lag from which a direction is held to have structure."""
CHANCE = 4.0
"""Standard errors of the autocorrelation of white noise that are allowed to chance."""


def autocorrelation(files: Iterable[Tensor], lags: Iterable[int] = LAGS) -> tuple[Tensor, int]:
    """[L, C] of files [C, T], about the mean of each file, and the frames seen.

    Not about the common mean: what sets files apart would pass for structure along time.
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
    """[C] bool: which channels of files [C, T] look the same as white noise."""
    return is_white(*autocorrelation(files))


def is_white(correlation: Tensor, frames: int) -> Tensor:
    """[C] bool, of an autocorrelation [L, C] at LAGS (or more, which are left aside)."""
    limit = max(CORRELATED, CHANCE / max(frames, 1) ** 0.5)
    return correlation[: len(LAGS)].abs().amax(dim=0) < limit


def _product(z: Tensor, lag: int) -> Tensor:
    return (z[:, lag:] * z[:, : max(0, z.shape[-1] - lag)]).sum(dim=-1)
