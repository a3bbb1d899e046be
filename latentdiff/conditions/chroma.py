"""Chroma: how strong each of the twelve pitch classes is, frame by frame, and chords as chroma.

Shapes: M chroma frames, N audio samples, T frames. Pitch class 0 is C.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from latentdiff.conditions.frames import spectra
from latentdiff.config import Section

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SIZE = 12
"""Features a frame."""


class ChromaConfig(Section):
    """The chroma features. Tuning is fixed to A = 440 Hz."""

    sample_rate: int = Field(default=22050, ge=4000)
    """Hz; audio is resampled to it."""

    n_fft: int = Field(default=4096, ge=512)
    """Samples per frame, and length of its Hann window."""

    hop: int = Field(default=1024, ge=1)
    """Samples from one frame to the next."""

    f_min: float = Field(default=65.0, gt=0)
    """Hz, lowest frequency counted. Lower notes are too near each other for the window."""

    f_max: float = Field(default=2000.0, gt=0)
    """Hz, highest frequency counted. Above, overtones outweigh the notes themselves."""


def chroma_blocks(blocks: Iterable[Floats], config: ChromaConfig) -> Iterator[Floats]:
    """Chroma in 0..1, in blocks [12, m], of audio that arrives in blocks [channels, N].

    The audio is at `config.sample_rate`; frames are those of `frames.whole_frames`, and the result
    does not depend on how the audio is cut into blocks. Each frame is the amplitude of the twelve
    pitch classes divided by its Euclidean norm, so that loudness is out. Frames quieter than about
    -60 dBFS fade to 0 instead of showing the chroma of their noise.
    """
    bank = _filter_bank(config)
    for magnitudes in spectra(blocks, config.n_fft, config.hop):
        power = bank @ np.square(magnitudes)
        amplitude = np.sqrt(power)
        norm = np.sqrt(power.sum(axis=0, keepdims=True) + _QUIET**2)
        yield (amplitude / norm).astype(np.float32)


_QUIET = 1e-3
"""Amplitude, relative to full scale, at which chroma is faded to 1 / sqrt(2)."""


def _filter_bank(config: ChromaConfig) -> Floats:
    """[12, 1 + n_fft // 2]: the share of a bin's power that counts for each pitch class.

    A Gaussian in pitch of a deviation of half a semitone, and in frequency no narrower than a bin,
    normalised over the classes so that a bin's power is shared, not multiplied.
    """
    frequencies = np.arange(1 + config.n_fft // 2) * config.sample_rate / config.n_fft
    counted = (frequencies >= config.f_min) & (frequencies <= config.f_max)
    pitch = 69 + 12 * np.log2(np.maximum(frequencies, config.f_min) / 440)
    away = (pitch - np.arange(SIZE)[:, None] + 6) % 12 - 6
    shares = np.exp(-0.5 * (away / _PITCH_DEVIATION) ** 2)
    bank = shares / shares.sum(axis=0) * counted
    return bank.astype(np.float32)


_PITCH_DEVIATION = 0.25
