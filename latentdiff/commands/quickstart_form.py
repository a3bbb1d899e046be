"""How regular a beat `quickstart`'s clips have, beside the music they were learned from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latentdiff import audio

SECONDS = 10.0
"""Measured of each file, from its middle."""
NO_BEAT = 0.5
"""Share of the music's periodicity below which the clips are said to lack its beat."""
LEAST = 0.4
"""Periodicity from which music counts as having a beat at all."""


@dataclass(frozen=True)
class OnsetPeriodicity:
    """Medians over files; see `evaluation.rhythm.Rhythm.periodicity`."""

    music: float
    """Of the recordings."""
    reconstruction: float
    """Of the held-out recording after encoding and decoding."""
    clips: float

    def __str__(self) -> str:
        return (
            f"onset periodicity (0: no beat, 1: a metronome): {self.music:.2f} of the music, "
            f"{self.reconstruction:.2f} after the codec, {self.clips:.2f} of the clips"
        )

    @property
    def problem(self) -> str | None:
        """What is wrong with the clips' beat; None: nothing."""
        if self.music < LEAST or self.clips >= NO_BEAT * self.music:
            return None
        return (
            f"the clips have hardly a beat (periodicity {self.clips:.2f}, the music has "
            f"{self.music:.2f}): train longer, with beat among condition.kinds"
        )


def onset_periodicity(
    music: Iterable[Path], reconstruction: Path, clips: Iterable[Path]
) -> OnsetPeriodicity:
    """Measure files. Raises AudioError for one that cannot be read."""
    return OnsetPeriodicity(_median(music), _median([reconstruction]), _median(clips))


def _median(paths: Iterable[Path]) -> float:
    # Here, as the command itself needs no torch.
    import torch

    from latentdiff.evaluation import rhythm

    found = []
    for path in paths:
        samples, rate = audio.read(path, channels=1)
        start = max(0, (samples.shape[1] - round(SECONDS * rate)) // 2)
        clip = torch.from_numpy(samples[:, start : start + round(SECONDS * rate)])
        found.append(rhythm.measure(rhythm.onset_envelopes(clip, rate)).periodicity)
    return float(torch.cat(found).median())
