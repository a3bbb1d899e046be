"""Clips as they are heard: spectrograms for timbre and rhythm, chromagrams for harmony.

Shapes: B clips, N audio samples, F features, M frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.evaluation import harmony, movement, rhythm
from latentdiff.evaluation.harmony import Chroma
from latentdiff.evaluation.rhythm import BandLevels, OnsetEnvelopes

SHORTEST_SECONDS = 2.0
"""Shorter clips hold too few beats and chords to have a rhythm or a harmony."""

Alter = Callable[[Tensor, float], Tensor]
"""(sequences [B, C, M], their frames a second) -> altered sequences [B, C, M]."""


@dataclass(frozen=True)
class Heard:
    """What is kept of the sound of clips; enough for every view, and for controls made of it."""

    levels: BandLevels
    chroma: Chroma

    @cached_property
    def onsets(self) -> OnsetEnvelopes:
        """Onset envelopes."""
        return rhythm.onsets(self.levels)

    def describe(self) -> dict[str, Tensor]:
        """Features [B, F] by view; without rhythm and harmony if clips are too short for them."""
        views = movement.describe_levels(self.levels.values, self.levels.rate)
        if self.levels.values.shape[-1] / self.levels.rate < SHORTEST_SECONDS:
            return views
        return {
            **views,
            "rhythm": rhythm.features(self.onsets),
            "harmony": harmony.features(self.chroma),
        }

    def altered(self, alter: Alter) -> Heard:
        """Other clips, made by changing spectrograms and chromagrams over time."""
        levels = alter(self.levels.values, self.levels.rate)
        # A chroma is an amount; a Gaussian process knows no sign.
        chroma = alter(self.chroma.values, self.chroma.rate).clamp(min=0)
        return Heard(replace(self.levels, values=levels), replace(self.chroma, values=chroma))


def hear(clips: Sequence[NDArray[np.float32]], sample_rate: int) -> Heard:
    """Analyse clips [channels, N] of equal length, mixed down to mono."""
    # As long as the window at least; all sets are as short, so silence makes none different.
    least = 2 * math.ceil(harmony.WINDOW_SECONDS * sample_rate)
    mono = [torch.from_numpy(clip.mean(axis=0))[None] for clip in clips]
    mono = [torch.nn.functional.pad(x, (0, max(0, least - x.shape[1]))) for x in mono]
    levels = [rhythm.band_levels(clip, sample_rate) for clip in mono]
    chroma = [harmony.chromagrams(clip, sample_rate) for clip in mono]
    return Heard(
        BandLevels(torch.cat([one.values for one in levels]), levels[0].rate),
        Chroma(
            torch.cat([one.values for one in chroma]),
            chroma[0].rate,
            torch.cat([one.tuning for one in chroma]),
        ),
    )
