"""How much windows of latents resemble those of recordings, at any shift.

Two windows resemble each other by the squared correlation along time of each latent direction,
averaged over the directions. Gain and offset do not matter, nor the sign and size of a direction.
Whitening along time as well, which sharpens the peaks of a correlation, did not part copies from
other music better, and noise on a copy hid it.

Shapes: C latent directions, F frames of a file, M queries, N frames of a Fourier transform, S
shifts, W frames of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

DIRECTIONS = 16
"""Latent directions compared, the first ones: they vary most."""
_FLOOR = 1e-3
"""Deviation within a window, in deviations of the training latents, below which a direction is
constant: its correlation would be that of rounding errors."""


class Place(NamedTuple):
    """Position of a window in the training files."""

    file: int
    """Index of the file."""
    start: int
    """First frame."""


class Match(NamedTuple):
    """The training window that a window resembles most."""

    resemblance: float
    """0..1; 1: equal up to the gain, sign and offset of each direction."""
    place: Place | None
    """None if no file is as long as a window."""


def nearest(
    queries: Tensor, files: Sequence[Tensor], excluded: Sequence[Sequence[Place]]
) -> list[Match]:
    """The window of the files [C, F] that each of queries [M, C, W] resembles most.

    Windows start at every frame, except within W frames of a place that is excluded for the query.
    Constant memory beside one file, by fast Fourier transforms of blocks of it.
    """
    queries = queries[:, :DIRECTIONS]
    count, width = len(queries), queries.shape[-1]
    best = torch.zeros(count)
    place = torch.full((count, 2), -1)
    prepared = _Queries.of(queries)
    for index, file in enumerate(files):
        own = [(m, p.start) for m, ps in enumerate(excluded) for p in ps if p.file == index]
        for begin in range(0, file.shape[-1] - width + 1, prepared.step):
            block = file[: queries.shape[1], begin : begin + prepared.step + width - 1]
            scores = prepared.resemblance(block)
            for m, start in own:
                low, high = start - width + 1 - begin, start + width - begin
                if high > 0:
                    scores[m, max(0, low) : high] = 0
            highest, at = scores.max(dim=1)
            better = highest > best
            best[better] = highest[better]
            place[better] = torch.stack([torch.full_like(at, index), at + begin], dim=1)[better]
    return [
        Match(float(score), Place(file, start) if file >= 0 else None)
        for score, (file, start) in zip(best, place.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class _Queries:
    """Windows ready to be compared with blocks of a file."""

    spectra: Tensor
    """[M, C, N / 2 + 1], conjugate, of the windows without mean and of norm 1."""
    weights: Tensor
    """[M, C], adding up to 1."""
    width: int
    """W."""

    @classmethod
    def of(cls, queries: Tensor) -> _Queries:
        width = queries.shape[-1]
        centred = queries - queries.mean(dim=-1, keepdim=True)
        norm = centred.norm(dim=-1)
        # By deviation: directions at rest in this window say nothing, and one that moves most must
        # not decide alone.
        weights = norm / norm.sum(dim=1, keepdim=True).clamp(min=1e-12)
        unit = centred / norm.clamp(min=_FLOOR * width**0.5)[..., None]
        size = 1 << (8 * width - 1).bit_length()
        return cls(torch.fft.rfft(unit, n=size).conj(), weights, width)

    @property
    def step(self) -> int:
        """Windows of a file compared at a time."""
        return 2 * (self.spectra.shape[-1] - 1) - self.width + 1

    def resemblance(self, block: Tensor) -> Tensor:
        """[M, S] of all windows of a block of a file [C, S + W - 1]."""
        size, shifts = 2 * (self.spectra.shape[-1] - 1), block.shape[-1] - self.width + 1
        spectra = torch.fft.rfft(block, n=size)
        norms = _norms(block, self.width)
        total = torch.zeros(len(self.spectra), shifts)
        for c in range(len(block)):
            # Correlation theorem: products of spectra are sums over all pairs of frames.
            dot = torch.fft.irfft(self.spectra[:, c] * spectra[c], n=size)[:, :shifts]
            total += self.weights[:, c, None] * (dot / norms[c]).square()
        return total.clamp(max=1.0)


def _norms(block: Tensor, width: int) -> Tensor:
    """[C, S] norms of all windows of a block, each without its mean."""
    cut = block.unfold(-1, width, 1)
    variance = cut.var(dim=-1, correction=0)
    return (variance.clamp(min=_FLOOR**2) * width).sqrt()


def windows_at(places: Sequence[Place | None], files: Sequence[Tensor], like: Tensor) -> Tensor:
    """The windows of the files at these places, of the shape [M, C, W] of `like`; zeros if None."""
    cut = torch.zeros_like(like)
    for index in sorted({place.file for place in places if place}):
        file = files[index]
        for m, place in enumerate(places):
            if place and place.file == index:
                cut[m] = file[: like.shape[1], place.start : place.start + like.shape[-1]]
    return cut
