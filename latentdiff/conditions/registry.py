"""The kinds of conditions that a model can follow, by their names in the settings.

A new one is a file of its own and an entry here; see `kind.ConditionKind`. This module imports none
of them, because neither the settings nor the command line may import torch; `kind.condition_kind`
does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """An option of `latentdiff sample`, and an argument of `sample()`, that a kind reads."""

    name: str
    """Without dashes."""
    metavar: str
    help: str
    repeatable: bool = False


@dataclass(frozen=True)
class KindEntry:
    """Import location of a kind, and how it is asked for."""

    place: str
    """`module.Class` in this package."""
    summary: str
    """One line for the settings reference."""
    options: tuple[Option, ...] = ()


KINDS = {
    "style": KindEntry(
        "style.Style",
        "what a piece is like as a whole, so that a sample stays in one piece",
        (
            Option(
                "style",
                "FILE|KEY",
                "Sound like this recording, or training file: a.wav. Several mix (a.wav=0.7), "
                "a.wav:b.wav moves from one to the other. Default: training files, drawn by the "
                "seed.",
                repeatable=True,
            ),
        ),
    ),
    "beat": KindEntry(
        "beat.Beat",
        "where in the bar it is, so that a sample keeps its beat",
        (
            Option(
                "bpm",
                "BPM[:BPM]",
                "Tempo, or first and last tempo: 125, 90:140. Default: that of the training file "
                "whose style it has.",
            ),
            Option("beats", "FILE", "Take the beats of this recording."),
        ),
    ),
    "chroma": KindEntry(
        "chroma.Chroma",
        "follows the harmony: twelve pitch classes, frame by frame",
        (
            Option("chords", "CHORDS", 'Chords, one a bar, again and again, such as "Am F C G".'),
            Option("chroma", "FILE", "Take the harmony of this recording."),
        ),
    ),
    "loudness": KindEntry(
        "loudness.Loudness",
        "follows the loudness, frame by frame",
        (
            Option(
                "loudness",
                "DB,DB,...|FILE",
                "Levels in dB from the start to the end, such as -30,-12,-20, or a recording whose "
                "loudness to take.",
            ),
        ),
    ),
    "mel": KindEntry("mel.Mel", "follows a mel spectrogram, frame by frame"),
    "label": KindEntry("label.Label", "one of several kinds of sound, such as folders"),
}
"""Features before those that depend on them: chords follow the beat."""


def options() -> list[tuple[str, Option]]:
    """(kind, option) of all options."""
    return [(name, option) for name, entry in KINDS.items() for option in entry.options]
