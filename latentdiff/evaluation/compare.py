"""Sets of clips, each compared with the training set: between real sound and noise.

Shapes: B clips, C channels, T frames of a clip, n windows, F features of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latentdiff.evaluation import windows
from latentdiff.evaluation.frechet import Gaussian, ScoreScale, distance

REFERENCE = "training"
"""Every other clip of the training files; all sets are compared with it."""
OTHER = "training, other clips"
"""The clips in between: real sound that the reference does not hold."""
HELD_OUT = "held-out files"
KEPT = "training, kept directions"
"""Of OTHER what the diffusion model can see; where it scores below OTHER, latents.keep costs
sound, whatever the model does."""
WEAK = "training, 0.7 as strong"
"""OTHER with its deviations from the mean scaled: how samples fail that are too tame."""
SHUFFLED = "training, frames shuffled"
WHITE = "white noise"
SAMPLES = "samples"
FOLLOWING = "samples after held-out"
"""Samples that follow the held-out clips, of a model that follows sound."""

ORDER = (REFERENCE, OTHER, KEPT, HELD_OUT, SAMPLES, FOLLOWING, WEAK, SHUFFLED, WHITE)
GROUPS = 8
"""Of samples, for the error of their score."""
FEWER = (HELD_OUT, FOLLOWING)
"""Sets that may hold fewer clips than the others; their distances are biased upwards by that."""


@dataclass(frozen=True)
class Comparison:
    """Frechet distances of sets, by name, and what they are worth."""

    distances: dict[str, float]
    """To the training clips."""
    to_held_out: dict[str, float]
    """To the held-out clips; empty where there are none. They hold other sound than the training
    clips, so this is larger for all sets where files are few and unlike."""
    scale: ScoreScale
    error: float | None = None
    """Standard error of the score of SAMPLES, for the chance in drawing them; None: not known."""

    def score(self, name: str) -> float:
        """0: as far from the training set as white noise; 1: as near as real sound."""
        return self.scale.score(self.distances[name])

    def facts(self) -> dict[str, Any]:
        """All of it for a JSON file."""
        return {
            "floor": round(self.scale.floor, 5),
            "ceiling": round(self.scale.ceiling, 5),
            "score_error": None if self.error is None else round(self.error, 4),
            "sets": {name: self._row(name) for name in self.distances},
        }

    def _row(self, name: str) -> dict[str, float | None]:
        score, far = self.score(name), self.to_held_out.get(name)
        return {
            "distance": round(self.distances[name], 5),
            "distance_to_held_out": None if far is None else round(far, 5),
            "score": None if math.isnan(score) else round(score, 4),
        }


def compare_clips(clips: Mapping[str, Tensor]) -> Comparison:
    """Sets of clips [B, C, T] by name, in equally many windows (see `windows.features`).

    T may differ from set to set.
    """
    shortest = min(x.shape[-1] for x in clips.values())
    sets = {name: windows.features(x, shortest) for name, x in clips.items()}
    found = compare(sets)
    if SAMPLES not in clips or not found.scale.usable:
        return found
    spread = _jackknife(clips[SAMPLES], Gaussian.fit(sets[REFERENCE]), shortest)
    return replace(found, error=spread / (found.scale.ceiling - found.scale.floor))


def _jackknife(clips: Tensor, reference: Gaussian, shortest: int) -> float:
    """Standard error of the distance of a set of clips, left out GROUPS times a group each."""
    groups = min(GROUPS, len(clips))
    group = torch.arange(len(clips)) % groups
    distances = torch.tensor(
        [
            distance(reference, Gaussian.fit(windows.features(clips[group != k], shortest)))
            for k in range(groups)
        ]
    )
    return float((distances.var(correction=0) * (groups - 1)).sqrt())


def compare(sets: Mapping[str, Tensor]) -> Comparison:
    """Sets of features [n, F] by name; REFERENCE, OTHER and WHITE must be among them.

    The larger ones are thinned out evenly to the n of the smallest, FEWER left aside (see
    `Gaussian.fit`). The floor is the smaller of the distances of OTHER and of HELD_OUT: a handful
    of held-out files can be less like the training files than noise is, and must not excuse every
    sample.
    """
    least = min(len(features) for name, features in sets.items() if name not in FEWER)
    fits = {name: Gaussian.fit(x[windows.spread(len(x), least)]) for name, x in sets.items()}
    reference, held_out = fits[REFERENCE], fits.get(HELD_OUT)
    distances = {n: distance(reference, fit) for n, fit in fits.items() if n != REFERENCE}
    far = {}
    if held_out is not None:
        far = {n: distance(held_out, fit) for n, fit in fits.items() if n != HELD_OUT}
    floor = min(distances[OTHER], distances.get(HELD_OUT, math.inf))
    return Comparison(distances, far, ScoreScale(floor, distances[WHITE]))
