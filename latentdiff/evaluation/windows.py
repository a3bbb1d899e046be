"""Clips of equal length: where to cut them, and features of short windows of them.

Shapes: B clips, C channels (latent directions or mel bands), T frames of a clip, L offsets, n
windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

OFFSETS = (0, 1, 2, 4, 8, 16, 32)
"""Frames of a window that become features: lags short and long, in few numbers."""

MOST = 8192
"""Windows of a set; if there are more, they are thinned out evenly."""


def cut(files: Sequence[int], frames: int, every: int | None = None) -> list[tuple[int, int]]:
    """(file index, first frame) of clips of `frames` in files of these lengths; `every`: frames
    from one clip to the next (None: edge to edge)."""
    return [
        (index, start)
        for index, length in enumerate(files)
        for start in range(0, length - frames + 1, every or frames)
    ]


def spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spread indices of 0 .. count - 1."""
    chosen = torch.linspace(0, count - 1, min(count, most), dtype=torch.float64)
    return chosen.round().long().tolist()


def features(clips: Tensor, most: int = MOST) -> Tensor:
    """Clips [B, C, T] -> [n, C * L]: the frames at OFFSETS in each window, side by side.

    The mean and covariance of these features hold each channel's mean and variance, and all auto-
    and cross-covariances at the lags between any two offsets, which is everything about a Gaussian
    process at these lags. So their Frechet distance, in squared units of the clips, reflects level,
    spread, spectrum and the correlation of channels, but nothing beyond second moments.

    Windows start at every frame; if there are more than `most`, they are thinned out evenly.
    Offsets that do not fit into T frames are left out.
    """
    offsets = torch.tensor([offset for offset in OFFSETS if offset < clips.shape[-1]])
    starts = torch.arange(clips.shape[-1] - int(offsets[-1]))
    places = torch.cartesian_prod(torch.arange(len(clips)), starts)
    places = places[spread(len(places), most)]
    index = places[:, 1, None] + offsets
    return clips[places[:, 0, None], :, index].flatten(1)
