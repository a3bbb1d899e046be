"""Short-time spectra of audio that arrives in blocks of any length.

Shapes: F frequencies, M frames, N audio samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_MOST_FRAMES = 2048
"""Frames transformed at once, which bounds the memory that a long block takes."""


def whole_frames(blocks: Iterable[Floats], size: int, hop: int) -> Iterator[Floats]:
    """Mono audio [N'] in pieces of whole frames of `size` samples, `hop` apart.

    Blocks [channels, N] are averaged over channels. Frame k is centred on sample k * hop, with
    silence outside the recording, so that there are 1 + N // hop frames in all.
    """
    before, after = size // 2, size - size // 2
    rest = np.zeros(before, dtype=np.float32)
    for block in blocks:
        mono = block.mean(axis=0, dtype=np.float64).astype(np.float32)
        rest = np.concatenate([rest, mono])
        frames = (len(rest) - size) // hop + 1
        if frames > 0:
            yield rest[: (frames - 1) * hop + size]
            # The next frame overlaps with these.
            rest = rest[frames * hop :]
    tail = np.concatenate([rest, np.zeros(after, dtype=np.float32)])
    if len(tail) >= size:
        yield tail


def spectra(blocks: Iterable[Floats], n_fft: int, hop: int) -> Iterator[Floats]:
    """Magnitudes of a Hann-windowed STFT in blocks [F, m], F = 1 + n_fft // 2.

    Frames are those of `whole_frames`. A sine of amplitude 1 has magnitude 1 at its frequency.
    """
    from scipy.fft import rfft  # keeps float32

    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    window *= 2 / window.sum()
    for samples in whole_frames(blocks, n_fft, hop):
        views = np.lib.stride_tricks.sliding_window_view(samples, n_fft)[::hop]
        for first in range(0, len(views), _MOST_FRAMES):
            spectrum = rfft(views[first : first + _MOST_FRAMES] * window, axis=1)
            yield np.abs(spectrum).T
