"""Sounds of a diagnosis: how loud, how far from others, and a few to listen to.

Shapes: N audio samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from latentdiff import audio as sound
from latentdiff.evaluation.sound import level_db, spectral_distance

KEPT = 2
"""Clips of a set that are kept as sound."""
SILENCE_DB = -200.0
"""Stands for digital silence, which has no finite level."""


def level_of(clips: Sequence[np.ndarray]) -> float:
    """Median RMS in dBFS of sounds [channels, N]."""
    return round(float(np.median([max(SILENCE_DB, level_db(clip)) for clip in clips])), 2)


def distance_of(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Mean spectral distance in dB of sounds [channels, N], pair by pair."""
    distances = [spectral_distance(x, y) for x, y in zip(a, b, strict=True)]
    return round(float(np.mean(distances)), 4)


def wavs(
    sets: Mapping[str, Sequence[np.ndarray]], sample_rate: int
) -> dict[str, Callable[[Path], None]]:
    """For `Report.files`: the first KEPT of each set, such as `audio/white-noise-0.wav`."""
    return {
        f"audio/{name.replace(' ', '-')}-{index}.wav": partial(_write, clip, sample_rate)
        for name, clips in sets.items()
        for index, clip in enumerate(clips[:KEPT])
    }


def _write(clip: np.ndarray, sample_rate: int, path: Path) -> None:
    sound.write(path, [clip], sample_rate, "wav")
