"""The level of a sound, and the distance between two sounds.

Shapes: N audio samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SCALES = (2048, 1024, 512, 256, 128)
"""STFT window lengths in samples; the hop is a quarter of each."""

FLOOR_DB = -80.0
"""Magnitudes are raised to at least this (0 dB: a full-scale sine): below it they are inaudible."""

SILENT_DB = -60.0
"""RMS in dBFS below which a whole recording counts as silent."""

_BLOCK = 1 << 18
"""Samples."""

Samples = NDArray[np.floating[Any]]


@dataclass
class LevelMeter:
    """RMS and peak of audio that arrives in blocks."""

    squares: float = 0.0
    """Sum of the squares of all samples of all channels."""
    count: int = 0
    """Number of samples, over all channels."""
    peak: float = 0.0
    """Largest magnitude of a sample; 1 is full scale."""

    def add(self, block: Samples) -> None:
        """Measure more samples, in an array of any shape."""
        if block.size:
            self.squares += float(np.square(block, dtype=np.float64).sum())
            self.count += block.size
            self.peak = max(self.peak, float(np.abs(block).max()))

    def merge(self, other: LevelMeter) -> None:
        """Add what another meter has measured."""
        self.squares += other.squares
        self.count += other.count
        self.peak = max(self.peak, other.peak)

    @property
    def db(self) -> float:
        """RMS in dBFS (a full-scale sine: -3.01); -inf for digital silence."""
        return decibels(self.squares / self.count) if self.count else -math.inf


def decibels(power: float) -> float:
    """10 log10; -inf for 0."""
    return 10 * math.log10(power) if power > 0 else -math.inf


def json_db(db: float) -> float | None:
    """A level for JSON: rounded to 0.01 dB, None for digital silence."""
    return None if math.isinf(db) else round(db, 2)


def level_db(audio: Samples) -> float:
    """RMS in dBFS of audio of any shape; -inf for digital silence."""
    level = LevelMeter()
    level.add(audio)
    return level.db


def is_silent(audio: Samples) -> bool:
    """Whether the RMS of audio of any shape is below SILENT_DB."""
    return level_db(audio) < SILENT_DB


def spectral_distance(a: Samples, b: Samples) -> float:
    """Multi-scale log-spectral distance in dB between audio [channels, N] or [N] of equal shape.

    The mean of |20 log10 |A| - 20 log10 |B|| over the STFTs of SCALES (Hann windows), magnitudes
    raised to at least FLOOR_DB (Engel et al. 2020, DDSP, arXiv 2001.04643, eq. 4, logarithmic part
    only). 0: equal magnitudes; a gain of x dB gives at most x. Phase is ignored. Computed in
    blocks, in constant memory.

    Beware of quiet or sparse sounds: most of their magnitudes are at the floor, where silence is
    exactly right, so silence comes closer to them than a poor copy does. Raises ValueError if the
    shapes differ or are empty.
    """
    if a.shape != b.shape or a.shape[-1] == 0:
        raise ValueError(f"cannot compare sounds of shapes {a.shape} and {b.shape}")
    total = sum(_distance_at(np.atleast_2d(a), np.atleast_2d(b), size) for size in SCALES)
    return total / len(SCALES)


def _distance_at(a: Samples, b: Samples, size: int) -> float:
    """The mean over one STFT."""
    total, count = 0.0, 0
    hop = size // 4
    for start in range(0, max(1, a.shape[1] - size + hop), _BLOCK):
        # Blocks overlap by a window less its hop: no frame is missed or counted twice.
        stop = start + _BLOCK + size - hop
        difference = _log_stft(a[:, start:stop], size) - _log_stft(b[:, start:stop], size)
        total += float(difference.abs().sum())
        count += difference.numel()
    return total / count


def _log_stft(audio: Samples, size: int) -> torch.Tensor:
    """[channels, size // 2 + 1, frames] in dB of [channels, N], zero-padded to whole frames."""
    samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    hop = size // 4
    missing = max(size - samples.shape[1], -(samples.shape[1] - size) % hop)
    samples = torch.nn.functional.pad(samples, (0, missing))
    window = torch.hann_window(size)
    spectrum = torch.stft(samples, size, hop, window=window, center=False, return_complex=True)
    # A full-scale sine peaks at half the sum of the window: scaled to 0 dB.
    magnitude = spectrum.abs() / (window.sum() / 2)
    return 20 * torch.log10(magnitude.clamp(min=10 ** (FLOOR_DB / 20)))
