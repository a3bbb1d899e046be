"""Chroma: how strong each of the twelve pitch classes is, frame by frame, and chords as chroma.

Shapes: M chroma frames, N audio samples, T frames. Pitch class 0 is C.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from latentdiff.conditions.frames import spectra
from latentdiff.config import Section, did_you_mean
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

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

    f_min: float = Field(default=110.0, gt=0)
    """Hz, lowest frequency counted. Lower notes are too near each other for the window; their
    overtones count."""

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
"""Amplitude, relative to full scale, at which a frame is faded to 1 / sqrt(2)."""


def _filter_bank(config: ChromaConfig) -> Floats:
    """[12, 1 + n_fft // 2]: the share of a bin's power that counts for each pitch class.

    A Gaussian in pitch, normalised over the classes so that a bin's power is counted once.
    """
    frequencies = np.arange(1 + config.n_fft // 2) * config.sample_rate / config.n_fft
    counted = (frequencies >= config.f_min) & (frequencies <= config.f_max)
    pitch = 69 + 12 * np.log2(np.maximum(frequencies, config.f_min) / 440)
    away = (pitch - np.arange(SIZE)[:, None] + 6) % 12 - 6
    shares = np.exp(-0.5 * np.square(away / _PITCH_DEVIATION))
    bank: Floats = (shares / shares.sum(axis=0) * counted).astype(np.float32)
    return bank


_PITCH_DEVIATION = 0.25
"""Semitones."""


def parse_chords(text: str) -> list[Floats]:
    """The chroma [12] of each chord of `Am F C G`: names separated by spaces, commas or bars (|).

    A name is a root (A to G, with # or b), then nothing, `maj` or `M` (major), `m` or `min`
    (minor), `7`, `maj7`, `m7`, `dim`, `aug`, `sus2` or `sus4`. `N` and `-` are no chord: zeros.
    Raises UserError for anything else.
    """
    names = re.split(r"[\s,|]+", text.strip(" \t\n,|"))
    if names == [""]:
        raise UserError("there are no chords", do_this='name some, such as "Am F C G".')
    return [_chord(name) for name in names]


def chord_features(chords: Sequence[Floats], bars: ArrayLike) -> Floats:
    """[12, T]: the chords' chroma at positions `bars` [T]: one chord a bar, then from the start."""
    index = np.floor(np.asarray(bars, dtype=np.float64)).astype(int) % len(chords)
    return np.stack(chords, axis=1)[:, index].astype(np.float32)


_ROOTS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "\u266f": 1, "b": -1, "\u266d": -1}
_QUALITIES = {
    **dict.fromkeys(("", "maj", "M"), (0, 4, 7)),
    **dict.fromkeys(("m", "min"), (0, 3, 7)),
    "7": (0, 4, 7, 10),
    **dict.fromkeys(("maj7", "M7"), (0, 4, 7, 11)),
    **dict.fromkeys(("m7", "min7"), (0, 3, 7, 10)),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
}
"""Semitones above the root."""
_NO_CHORD = ("N", "-")

_NOTE = np.array([0.93, 0.15, 0.04, 0.01, 0.12, 0.0, 0.01, 0.25, 0.01, 0.02, 0.06, 0.16])
"""Chroma of one note, from its own class on: what `chroma_blocks` makes of tones from C3 to B4
whose harmonics h have amplitude h^-1.2, on average. The overtones add a fifth and a third, and low
notes reach into their neighbours."""


def _chord(name: str) -> Floats:
    if name in _NO_CHORD:
        return np.zeros(SIZE, np.float32)
    match = re.fullmatch(r"([A-G])([#b\u266f\u266d]?)(.*)", name)
    if match is None or match[3] not in _QUALITIES:
        raise _unknown_chord(name)
    root = _ROOTS[match[1]] + _ACCIDENTALS[match[2]]
    # Notes of unrelated phases add in power.
    power = sum(np.roll(_NOTE, root + step) ** 2 for step in _QUALITIES[match[3]])
    chroma: Floats = np.sqrt(power / np.sum(power)).astype(np.float32)
    return chroma


def _unknown_chord(name: str) -> UserError:
    known = [
        letter + sign + quality
        for letter in _ROOTS
        for sign in ("", "#", "b")
        for quality in _QUALITIES
    ]
    return UserError(
        f"there is no chord '{name}'{did_you_mean(name, known)}",
        do_this="a chord is a note from A to G, with # or b if need be, then nothing for major, or "
        f"one of: {', '.join(quality for quality in _QUALITIES if quality)}; N is none.",
    )
