"""Mistakes in the training data: noisy latents, scaled windows, exchanged conditions.

Shapes: B batch, C latent channels, D latent dimensions, K condition features, T frames of a file, W
frames of a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from latentdiff.errors import UserError

Item = TypeVar("Item")


def sample_posterior(key: str, mean: np.ndarray, std: np.ndarray | None) -> np.ndarray:
    """A draw [D, T] from the posterior of the file `key`, of this mean and std [D, T].

    It depends on the `key` only. Raises UserError if `std` is None.
    """
    if std is None:
        raise UserError(
            f"cannot draw from the posterior of {key}",
            why="its latents were encoded without the posterior's standard deviation",
            do_this="encode again with latents.keep_std=true, or drop experiment.data.posterior.",
        )
    noise = _generator("posterior", key).standard_normal(mean.shape, dtype=np.float32)
    drawn: np.ndarray = np.asarray(mean, dtype=np.float32) + std * noise
    return drawn


def shuffle(items: Sequence[Item]) -> list[Item]:
    """A random permutation that maps no item to itself."""
    order = _generator("pairing", len(items)).permutation(len(items))
    shuffled = list(items)
    # Each gets its predecessor in a random order, so that none of two or more gets itself.
    for here, there in zip(order, np.roll(order, 1), strict=True):
        shuffled[here] = items[there]
    return shuffled


def loop_from_middle(features: np.ndarray, frames: int) -> np.ndarray:
    """Features [K, T] of another file as [K, `frames`]: repeated, starting at their middle.

    Not at their start: a file that is the only one would get its own condition, in place.
    """
    count = features.shape[-1]
    return features[:, (np.arange(frames) + count // 2) % count]


def scale_windows(windows: Tensor) -> Tensor:
    """Windows [B, C, W], each scaled to -1..1 by its own minimum and maximum."""
    low, high = (f(windows, dim=(1, 2), keepdim=True) for f in (Tensor.amin, Tensor.amax))
    return 2 * (windows - low) / (high - low).clamp(min=1e-8) - 1


def _generator(*parts: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
