"""Clips of equal length: where to cut them, distorted versions of them, and their features.

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


def cut(files: Sequence[int], frames: int) -> list[tuple[int, int]]:
    """(file index, first frame) of clips of `frames`, edge to edge in files of these lengths."""
    return [
        (index, start)
        for index, length in enumerate(files)
        for start in range(0, length - frames + 1, frames)
    ]


def spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spread indices of 0 .. count - 1."""
    chosen = torch.linspace(0, count - 1, min(count, most), dtype=torch.float64)
    return chosen.round().long().tolist()


def features(clips: Tensor, shortest: int | None = None, most: int = MOST) -> Tensor:
    """Clips [B, C, T] -> [n, C * L]: the frames at OFFSETS in each window, side by side.

    The mean and covariance of these features hold each channel's mean and variance, and all auto-
    and cross-covariances at the lags between any two offsets, which is everything about a Gaussian
    process at these lags. So their Frechet distance, in squared units of the clips, reflects level,
    spread, spectrum and the correlation of channels, but nothing beyond second moments.

    Windows start at every frame; if there are more than `most`, they are thinned out evenly.
    Offsets that do not fit into `shortest` frames (None: T) are left out, so that sets of clips of
    different lengths can be compared.
    """
    length = clips.shape[-1] if shortest is None else shortest
    offsets = torch.tensor([offset for offset in OFFSETS if offset < length])
    starts = torch.arange(clips.shape[-1] - int(offsets[-1]))
    places = torch.cartesian_prod(torch.arange(len(clips)), starts)
    places = places[spread(len(places), most)]
    index = places[:, 1, None] + offsets
    return clips[places[:, 0, None], :, index].flatten(1)


def white_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """White noise [B, C, T] with the mean and variance of each channel of `like`."""
    mean = like.mean(dim=(0, 2), keepdim=True)
    std = like.std(dim=(0, 2), keepdim=True, correction=0)
    return mean + std * torch.randn(like.shape, generator=generator)


def shuffled(clips: Tensor, generator: torch.Generator) -> Tensor:
    """The frames of all clips [B, C, T] in random order."""
    frames = clips.transpose(0, 1).flatten(1)
    order = torch.randperm(frames.shape[1], generator=generator)
    channels_first = frames[:, order].view(clips.shape[1], clips.shape[0], clips.shape[2])
    return channels_first.transpose(0, 1)


def weakened(clips: Tensor, factor: float = 0.7) -> Tensor:
    """Clips [B, C, T] with each channel's deviations from its mean scaled by `factor`."""
    mean = clips.mean(dim=(0, 2), keepdim=True)
    return mean + factor * (clips - mean)
