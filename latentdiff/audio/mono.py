"""A recording as mono audio at any sample rate, decoded once where it is short enough to be held.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff.audio.decode import blocks, probe
from latentdiff.audio.resample import resample, too_odd

MOST_HELD = 1 << 24
"""Samples that are held, 64 MB: six minutes at 44.1 kHz. Longer recordings are decoded each time,
so that memory does not grow with their length."""


class MonoAudio:
    """A recording, its channels averaged."""

    def __init__(self, path: Path) -> None:
        """Decodes the file. Raises AudioError."""
        self._path, self._rate = path, probe(path).sample_rate
        held: list[NDArray[np.float32]] = []
        samples = 0
        # Counted, because headers may be wrong.
        for block in blocks(path, channels=1):
            samples += block.shape[1]
            held.append(block)
            if samples > MOST_HELD:
                held.clear()
        self._held = held
        self.seconds = samples / self._rate

    def blocks(self, sample_rate: int) -> Iterator[NDArray[np.float32]]:
        """Blocks [1, N] at a rate in Hz. Raises AudioError."""
        if not self._held or too_odd(self._rate, sample_rate):
            return blocks(self._path, sample_rate, 1)
        return resample(iter(self._held), self._rate, sample_rate)
