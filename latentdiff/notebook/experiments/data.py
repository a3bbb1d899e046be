"""Latents and conditions as they should not be given to a model.

Shapes: B batch, C latent channels, D latent dimensions, K condition features, T frames of a file, W
frames of a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.notebook.experiments.settings import ExperimentConfig

Item = TypeVar("Item")


def latents(
    config: ExperimentConfig, key: str, mean: np.ndarray, std: np.ndarray | None
) -> np.ndarray:
    """Raw latents [D, T] of a file, from its posterior's mean and deviation [D, T].

    A draw depends on the `key` only. Raises UserError where one is wanted and `std` is None.
    """
    if config.data.posterior == "mean":
        return mean
    if std is None:
        raise UserError(
            f"the posterior of {key} cannot be drawn from",
            why="the latents were encoded without its standard deviation",
            do_this="encode again with latents.keep_std=true, or drop experiment.data.posterior.",
        )
    noise = _generator("posterior", key).standard_normal(mean.shape, dtype=np.float32)
    return np.asarray(mean, dtype=np.float32) + std * noise


def partners(config: ExperimentConfig, items: Sequence[Item]) -> list[Item]:
    """Whose condition each of them gets: its own, or that of another one, each once."""
    if config.data.pairing == "key":
        return list(items)
    order = _generator("pairing", len(items)).permutation(len(items))
    found = list(items)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        found[here] = items[there]
    return found


def borrowed(features: np.ndarray, frames: int) -> np.ndarray:
    """Features [K, T] of another file for so many frames: from its middle on, then from its start.

    From the middle, so that a file without others does not get its own in place.
    """
    count = features.shape[-1]
    return features[:, (np.arange(frames) + count // 2) % count]


def of_window(config: ExperimentConfig) -> Callable[[Tensor], Tensor] | None:
    """What becomes of final windows [B, C, W]; None: they stay."""
    return None if config.data.scaling == "none" else _stretched


def _stretched(windows: Tensor) -> Tensor:
    """Each to -1..1."""
    low, high = (f(windows, dim=(1, 2), keepdim=True) for f in (Tensor.amin, Tensor.amax))
    return 2 * (windows - low) / (high - low).clamp(min=1e-8) - 1


def _generator(*parts: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
