"""Chords by their names, as the chroma of recordings in which they sound.

Shapes: T frames. Pitch class 0 is C.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.config import did_you_mean
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]

SIZE = 12
"""Pitch classes."""


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
