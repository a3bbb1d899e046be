"""Clips of equal length: cut from recordings, robbed of their structure, turned into features.

Shapes: B clips, C channels (latent directions or mel bands), T frames of a clip, L offsets, n
windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

OFFSETS = (0, 1, 2, 4, 8, 16, 32)
"""Frames of a window that are looked at: differences near and far, in few numbers."""

MOST = 8192
"""Windows of a set beyond which they are thinned out evenly."""


def cut(files: Sequence[int], frames: int) -> list[tuple[int, int]]:
    """(file, first frame) of the clips of `frames` laid edge to edge in files of such lengths."""
    return [
        (index, start)
        for index, length in enumerate(files)
        for start in range(0, length - frames + 1, frames)
    ]


def spread(count: int, most: int) -> list[int]:
    """At most `most` of 0 .. count - 1, evenly spread."""
    chosen = torch.linspace(0, count - 1, min(count, most), dtype=torch.float64)
    return chosen.round().long().tolist()


def features(clips: Tensor, shortest: int | None = None, most: int = MOST) -> Tensor:
    """Clips [B, C, T] -> [n, C * L]: in each window, the frames at OFFSETS laid side by side.

    The mean and covariance of these hold each channel's mean and variance, and all auto- and
    cross-covariances at the lags between any two offsets: what a Gaussian process is. So their
    Frechet distance sees level, spread, spectrum and how channels go together, in squared units
    of the clips; it does not see what is beyond second moments. Windows start at every frame,
    thinned evenly where there are more than `most`. Offsets that do not fit into clips of
    `shortest` frames (None: these) are left out, so that sets of any lengths can be compared.
    """
    length = clips.shape[-1] if shortest is None else shortest
    offsets = torch.tensor([offset for offset in OFFSETS if offset < length])
    starts = torch.arange(clips.shape[-1] - int(offsets[-1]))
    places = torch.cartesian_prod(torch.arange(len(clips)), starts)
    places = places[spread(len(places), most)]
    index = places[:, 1, None] + offsets
    return clips[places[:, 0, None], :, index].flatten(1)


def white_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """[B, C, T] of the mean and variance of each channel of `like`, and nothing else of it."""
    mean = like.mean(dim=(0, 2), keepdim=True)
    std = like.std(dim=(0, 2), keepdim=True, correction=0)
    return mean + std * torch.randn(like.shape, generator=generator)


def shuffled(clips: Tensor, generator: torch.Generator) -> Tensor:
    """The very frames of all clips [B, C, T], in a random order."""
    frames = clips.transpose(0, 1).flatten(1)
    order = torch.randperm(frames.shape[1], generator=generator)
    return frames[:, order].unflatten(1, (clips.shape[0], clips.shape[2])).transpose(0, 1)


def weakened(clips: Tensor, factor: float = 0.7) -> Tensor:
    """Clips [B, C, T] with each channel's deviations from its mean scaled."""
    mean = clips.mean(dim=(0, 2), keepdim=True)
    return mean + factor * (clips - mean)
