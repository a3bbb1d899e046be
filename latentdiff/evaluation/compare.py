"""Sets of clips, each compared with the training set: between real sound and noise.

Shapes: n windows, F features of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latentdiff.evaluation.frechet import Gaussian, Scale, distance

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
    scale: Scale

    def score(self, name: str) -> float:
        """0: as far from the training set as white noise; 1: as near as real sound."""
        return self.scale.score(self.distances[name])

    def facts(self) -> dict[str, Any]:
        """All of it for a JSON file."""
        return {
            "floor": round(self.scale.floor, 5),
            "ceiling": round(self.scale.ceiling, 5),
            "sets": {name: self._row(name) for name in self.distances},
        }

    def _row(self, name: str) -> dict[str, float | None]:
        score, far = self.score(name), self.to_held_out.get(name)
        return {
            "distance": round(self.distances[name], 5),
            "distance_to_held_out": None if far is None else round(far, 5),
            "score": None if math.isnan(score) else round(score, 4),
        }


def compare(sets: Mapping[str, Tensor]) -> Comparison:
    """Sets of features [n, F] by name; REFERENCE, OTHER and WHITE must be among them.

    The floor is the smaller of the distances of OTHER and of HELD_OUT: a handful of held-out
    files can be less like the training files than noise is, and must not excuse every sample. All
    sets but FEWER should be of one n (see `Gaussian.fit`).
    """
    fits = {name: Gaussian.fit(features) for name, features in sets.items()}
    reference, held_out = fits[REFERENCE], fits.get(HELD_OUT)
    distances = {n: distance(reference, fit) for n, fit in fits.items() if n != REFERENCE}
    far = {}
    if held_out is not None:
        far = {n: distance(held_out, fit) for n, fit in fits.items() if n != HELD_OUT}
    floor = min(distances[OTHER], distances.get(HELD_OUT, math.inf))
    return Comparison(distances, far, Scale(floor, distances[WHITE]))
