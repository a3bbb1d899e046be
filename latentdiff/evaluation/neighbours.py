"""Distances to the nearest window of the training set: small ones are a sign of memorisation.

Shapes: C latent directions, M queries, T frames of a file, W frames of a window.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_BLOCK = 1 << 12
"""Windows of the training set compared at a time."""


def nearest(queries: Tensor, files: Iterable[Tensor]) -> Tensor:
    """[M] distances of windows [M, C, W] to the nearest of all windows of files [C, T].

    |query - neighbour| / |query|. 0: a copy; about 1: no nearer than zero is. Windows start at
    every frame. Constant memory. Infinity if no file is as long as a window.
    """
    width = queries.shape[-1]
    flat = queries.flatten(1)
    best = torch.full((len(flat),), torch.inf)
    for file in files:
        for start in range(0, file.shape[-1] - width + 1, _BLOCK):
            block = file[:, start : start + _BLOCK + width - 1]
            windows = block.unfold(-1, width, 1).transpose(0, 1).flatten(1)
            best = torch.minimum(best, torch.cdist(flat, windows).amin(dim=1))
    # Relative: quiet windows are near to all other quiet ones, and would look like copies.
    relative: Tensor = best / flat.norm(dim=1).clamp(min=1e-12)
    return relative


def ratio(samples: Tensor, held_out: Tensor) -> float:
    """Median distance of samples over that of held-out windows, both from `nearest`.

    About 1: samples are as new as held-out recordings. Far below 1: some of them are copies.
    """
    return float(samples.median() / held_out.median().clamp(min=1e-12))
