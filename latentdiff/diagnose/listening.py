"""Sounds of a report: levels, distances, and a few files to listen to.

Shapes: N audio samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff import audio
from latentdiff.evaluation.sound import level_db, spectral_distance

KEPT = 2
"""Sounds of each set that are written as files."""
SILENCE_DB = -200.0
"""Stands for digital silence, which has no finite level."""


def level_of(sounds: Sequence[NDArray[np.float32]]) -> float:
    """Median RMS in dBFS of sounds [channels, N]."""
    return round(float(np.median([max(SILENCE_DB, level_db(sound)) for sound in sounds])), 2)


def distance_of(a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> float:
    """Mean spectral distance in dB between pairs of sounds [channels, N]."""
    distances = [spectral_distance(x, y) for x, y in zip(a, b, strict=True)]
    return round(float(np.mean(distances)), 4)


def wavs(
    sets: Mapping[str, Sequence[NDArray[np.float32]]], sample_rate: int
) -> dict[str, Callable[[Path], None]]:
    """Audio files for `Report.files`: the first KEPT of each set, such as `audio/white-
    noise-0.wav`."""
    return {
        f"audio/{name.replace(' ', '-')}-{index}.wav": partial(_write, sound, sample_rate)
        for name, sounds in sets.items()
        for index, sound in enumerate(sounds[:KEPT])
    }


def _write(sound: NDArray[np.float32], sample_rate: int, path: Path) -> None:
    audio.write(path, [sound], sample_rate, "wav")
