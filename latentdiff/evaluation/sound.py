"""How loud a sound is, and how far one sound is from another.

Shapes: N audio samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch

SCALES = (2048, 1024, 512, 256, 128)
"""STFT windows in samples, each with a hop of a quarter."""

FLOOR_DB = -80.0
"""Magnitudes below this (0 dB: a full-scale sine) count as this: nobody hears the difference."""

SILENT_DB = -60.0
"""dBFS RMS below which a whole recording is as good as silent."""

_BLOCK = 1 << 18


class LevelMeter:
    """RMS and peak of a sound that arrives in blocks."""

    def __init__(self) -> None:
        self.peak = 0.0
        """Largest absolute sample; 1 is full scale."""
        self.squares = 0.0
        """Sum of the squares of all samples of all channels."""
        self.count = 0

    def add(self, block: np.ndarray) -> None:
        """Samples of any shape."""
        if block.size:
            self.squares += float(np.square(block, dtype=np.float64).sum())
            self.count += block.size
            self.peak = max(self.peak, float(np.abs(block).max()))

    @property
    def db(self) -> float:
        """RMS in dBFS (a full-scale sine: -3.01); -inf for digital silence."""
        return decibels(self.squares / self.count) if self.count else -math.inf


def decibels(power: float) -> float:
    """10 log10; -inf for 0."""
    return 10 * math.log10(power) if power > 0 else -math.inf


def level_db(audio: np.ndarray) -> float:
    """RMS of a sound of any shape in dBFS; -inf for digital silence."""
    level = LevelMeter()
    level.add(audio)
    return level.db


def is_silent(audio: np.ndarray) -> bool:
    """Whether the RMS lies below SILENT_DB."""
    return level_db(audio) < SILENT_DB


def spectral_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Multi-scale log-spectral distance in dB between sounds [channels, N] or [N] of one shape.

    The mean, over the STFTs of SCALES, of |20 log10 |A| - 20 log10 |B||, magnitudes held above
    FLOOR_DB; Hann windows, hop a quarter (after Engel et al. 2020, DDSP, eq. 4, its logarithmic
    part). 0: the same magnitudes; a gain of x dB on everything is a distance of at most x. Phase
    does not count. Taken in blocks: memory does not grow with N.
    """
    if a.shape != b.shape or a.shape[-1] == 0:
        raise ValueError(f"cannot compare sounds of shapes {a.shape} and {b.shape}")
    total = sum(_distance_at(np.atleast_2d(a), np.atleast_2d(b), size) for size in SCALES)
    return total / len(SCALES)


def _distance_at(a: np.ndarray, b: np.ndarray, size: int) -> float:
    """The mean over one STFT; consecutive blocks overlap so that no frame is missed."""
    total, count = 0.0, 0
    hop = size // 4
    for start in range(0, max(1, a.shape[1] - size + hop), _BLOCK):
        stop = start + _BLOCK + size - hop
        difference = _log_stft(a[:, start:stop], size) - _log_stft(b[:, start:stop], size)
        total += float(difference.abs().sum())
        count += difference.numel()
    return total / count


def _log_stft(audio: np.ndarray, size: int) -> torch.Tensor:
    """[channels, size // 2 + 1, frames] in dB, of float32 [channels, N]; a rest is filled up."""
    samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    hop = size // 4
    missing = max(size - samples.shape[1], -(samples.shape[1] - size) % hop)
    samples = torch.nn.functional.pad(samples, (0, missing))
    window = torch.hann_window(size)
    spectrum = torch.stft(samples, size, hop, window=window, center=False, return_complex=True)
    magnitude = spectrum.abs() / (window.sum() / 2)
    return 20 * torch.log10(magnitude.clamp(min=10 ** (FLOOR_DB / 20)))
