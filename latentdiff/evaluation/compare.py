"""Frechet distances of sets of clips to the training clips, scored between real sound and noise.

Shapes: B clips, C channels, T frames of a clip, n windows, F features of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentdiff.evaluation import windows
from latentdiff.evaluation.frechet import Gaussian, ScoreScale, distance

REFERENCE = "training"
"""Every other clip of the training files; all sets are compared with it."""
OTHER = "training, other clips"
"""The clips in between: real sound that is not in the reference."""
HELD_OUT = "held-out files"
KEPT = "training, kept directions"
"""OTHER, reduced to the latent directions that the diffusion model sees. Where it scores below
OTHER, latents.keep costs sound quality, whatever the model does."""
WEAK = "training, 0.7 as strong"
"""OTHER with its deviations from the mean scaled down, as in the samples of undertrained models."""
SHUFFLED = "training, frames shuffled"
WHITE = "white noise"
SAMPLES = "samples"
FOLLOWING = "samples after held-out"
"""Samples that follow the held-out clips, if the model follows spectrograms."""

ORDER = (REFERENCE, OTHER, KEPT, HELD_OUT, SAMPLES, FOLLOWING, WEAK, SHUFFLED, WHITE)
GROUPS = 8
"""Groups of samples in the jackknife estimate of the score's error."""
FEWER = (HELD_OUT, FOLLOWING)
"""Sets that may hold fewer clips than the others; this biases their distances upwards."""


@dataclass(frozen=True)
class SetScore:
    """How close one set of clips is to the training clips."""

    distance: float
    """Frechet distance to the training clips, in squared units of the features."""
    distance_to_held_out: float | None
    """Frechet distance to the held-out clips; None without held-out files, and of these
    themselves. It is large for all sets if the files are few and differ from each other."""
    score: float | None
    """0: as far from the training clips as white noise; 1: as close as other real sound. None if
    white noise is no farther than real sound."""


@dataclass(frozen=True)
class Comparison:
    """Sets of clips compared with the training clips by one kind of features."""

    floor: float
    """Distance of real sound that is not in the reference: score 1."""
    ceiling: float
    """Distance of white noise: score 0."""
    score_error: float | None
    """Standard error of the score of SAMPLES from drawing finitely many; None if unknown."""
    sets: dict[str, SetScore]
    """Scores by name of the set, without the reference."""

    @property
    def usable(self) -> bool:
        """Whether the features tell real sound from noise, so that there are scores."""
        return self.ceiling > self.floor

    def score(self, name: str) -> float | None:
        """The score of one set."""
        return self.sets[name].score


def compare_clips(clips: Mapping[str, Tensor]) -> Comparison:
    """Compare sets of clips [B, C, T] by name; T may differ from set to set.

    The features are those of `windows.features`, from equally many windows of each set.
    """
    shortest = min(x.shape[-1] for x in clips.values())
    sets = {name: windows.features(x, shortest) for name, x in clips.items()}
    comparison = compare(sets)
    if SAMPLES not in clips or not comparison.usable:
        return comparison
    error = _jackknife(clips[SAMPLES], Gaussian.fit(sets[REFERENCE]), shortest)
    return replace(comparison, score_error=error / (comparison.ceiling - comparison.floor))


def _jackknife(clips: Tensor, reference: Gaussian, shortest: int) -> float:
    """Standard error of the distance of a set of clips.

    By the delete-a-group jackknife (Shao and Tu 1995, The Jackknife and Bootstrap, ch. 2):
    sqrt((G - 1) / G * sum of squared deviations), over G estimates that leave out a group each.
    Whole clips are left out: windows of the same clip overlap, so they are not independent.
    """
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
    """Compare sets of features [n, F] by name; REFERENCE, OTHER and WHITE must be among them.

    Larger sets are thinned out evenly to the n of the smallest (FEWER aside), since the distance
    is biased by n (see `Gaussian.fit`). The floor is the smaller of the distances of OTHER and
    HELD_OUT: a few held-out files can be less like the training files than noise is, and must not
    excuse every sample.
    """
    least = min(len(features) for name, features in sets.items() if name not in FEWER)
    fits = {name: Gaussian.fit(x[windows.spread(len(x), least)]) for name, x in sets.items()}
    distances = {n: distance(fits[REFERENCE], fit) for n, fit in fits.items() if n != REFERENCE}
    floor = min(distances[OTHER], distances.get(HELD_OUT, math.inf))
    scale = ScoreScale(floor, distances[WHITE])
    held_out = fits.get(HELD_OUT)
    scored = {
        name: SetScore(
            apart,
            None if held_out is None or name == HELD_OUT else distance(held_out, fits[name]),
            scale.score(apart) if scale.usable else None,
        )
        for name, apart in distances.items()
    }
    return Comparison(scale.floor, scale.ceiling, None, scored)
