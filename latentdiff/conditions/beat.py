"""The beat as a condition: where in the bar a frame is, and how fast bars go by.

A network that sees a second at a time cannot count bars; told the phase, it need not.

Shapes: K = 11 features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.conditions.beats import SIZE, BeatGrid, beat_features, parse_bpm, steady
from latentdiff.conditions.kind import FeatureKind, Sound, Target
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.config import Values
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

VERSION = 1
"""Of the tracker: features of another one are not those that a model was trained on."""


@dataclass(frozen=True)
class Beat(FeatureKind):
    """Phase in the bar at 1, 2, 4, 8 and 16 cycles, and the tempo; see `beats.beat_features`."""

    name = "beat"
    size = SIZE
    optional = True
    least_std = 0.5
    """A phase has 0.7. A quarter of an octave for tempi, so that the tempo of a corpus whose pieces
    are all equally fast can be changed by a little, and not by a hundred deviations."""

    @classmethod
    def of(cls, condition: ConditionConfig) -> Beat:
        return cls()

    def extract(self, sound: Sound, frames: int, frame_rate: float) -> Iterator[Floats] | None:
        grid = sound.beats()
        return None if grid is None else iter([_features(grid, frames, frame_rate)])

    def identity(self) -> Values:
        return {"version": VERSION}

    def describe(self, features: Floats) -> Floats | None:
        """The median tempo in bpm, [1]."""
        return np.array([120 * 2 ** np.median(features[-1])], dtype=np.float32)

    def make(self, target: Target) -> Floats | None:
        (bpm,), (song,) = (target.options.get(name, ("",)) for name in ("bpm", "beats"))
        if bpm and song:
            raise UserError(
                "--bpm and --beats cannot be given together",
                why="the beats of a recording have a tempo",
                do_this="leave one of them out.",
            )
        if song:
            grid = target.recording(Path(song)).beats()
            if grid is None:
                raise UserError(
                    f"no beat was found in {song}",
                    why="its onsets repeat no more regularly than by chance",
                    do_this="give a tempo with --bpm.",
                )
            return _features(grid, target.frames, target.frame_rate)
        tempi = parse_bpm(bpm) if bpm else self._drawn(target)
        if tempi is None:
            return None
        bars, tempo = steady(*tempi, target.frames, target.frame_rate)
        return beat_features(bars, tempo, target.frame_rate)

    def _drawn(self, target: Target) -> tuple[float, None] | None:
        """The tempo of the training file that fills in; None where it has no beat."""
        reference = target.reference.get(self.name)
        return None if reference is None else (float(reference[0]), None)


def _features(grid: BeatGrid, frames: int, frame_rate: float) -> Floats:
    """The features [K, T] of a recording's beats."""
    times = (np.arange(frames) + 0.5) / frame_rate
    return beat_features(grid.bars(times), grid.tempo(times), frame_rate)
