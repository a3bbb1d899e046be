"""Scores of sets of clips, from features taken clip by clip: distances, a classifier, variety.

Shapes: B clips of a set, n clips of the reference, F features, R bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesClassifier
from torch import Tensor

from latentdiff.evaluation.views import View

REPLICATES = 200
FOLDS = 5
TREES = 100
FEWEST = 8
"""Fewest clips that are scored."""
WIDEST = 1.0
"""Width of a 95 % interval of a score from which it says nothing: the whole scale."""
USABLE = 0.5
"""Share of white noise's distance up to which held-out clips can stand for 1."""
_LARGEST = 10.0
"""Standardised features are clamped to this: one odd clip must not decide."""


@dataclass(frozen=True)
class Described:
    """A set of clips by their features."""

    features: Tensor
    """[B, F]."""
    overlaps: Tensor | None = None
    """[B, B], whether two clips share sound because they were cut so; None: none do. Repeated
    samples are no overlaps: they are what the scores must see."""

    def apart(self) -> Tensor:
        """[B, B], whether a pair is of two clips that do not overlap."""
        apart = ~torch.eye(len(self.features), dtype=torch.bool)
        return apart if self.overlaps is None else apart & ~self.overlaps

    def distinct(self) -> int:
        """Clips that remain if of overlapping ones only the first is kept."""
        apart, kept = self.apart(), list[int]()
        for row in range(len(self.features)):
            if bool(apart[row, kept].all()):
                kept.append(row)
        return len(kept)


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float | None
    """None: too few clips."""
    low: float | None
    high: float | None
    """None: nothing is known of them."""
    reason: str | None = None
    """Why there is no value."""


@dataclass(frozen=True)
class Line:
    """Scores of sets by one view: 1 as near to the training clips as `one`, 0 as white noise."""

    one: str
    """`held-out clips`; or `training clips` (a distance of 0) where there are too few held-out
    clips, or they differ from the training clips half as much as white noise does."""
    scores: dict[str, Interval]
    distances: dict[str, float]
    """Energy distance in standard deviations of the features; 0 is expected of equal sources."""

    def smallest_difference(self, name: str) -> float | None:
        """Between two models, of the score of `name`, that is more than chance (5 %)."""
        interval = self.scores[name]
        if interval.low is None or interval.high is None:
            return None
        return 2**0.5 * (interval.high - interval.low) / 2


class Reference:
    """Training clips, with whose features all others are standardised and compared."""

    def __init__(self, clips: Described) -> None:
        self._mean = clips.features.double().mean(dim=0)
        self._scale = clips.features.double().std(dim=0).clamp(min=1e-4)
        self.apart = clips.apart()
        self.features = self.standard(clips)
        self.between = torch.cdist(self.features, self.features)
        self._within = float(self.between[self.apart].mean())

    def standard(self, clips: Described) -> Tensor:
        """[B, F], clamped; divided by sqrt(F), so that distances do not grow with F."""
        z = ((clips.features.double() - self._mean) / self._scale).clamp(-_LARGEST, _LARGEST)
        scaled: Tensor = z / z.shape[1] ** 0.5
        return scaled

    def distances(self, clips: Described, generator: torch.Generator) -> Tensor:
        """[1 + R] energy distances: of the clips, and of bootstrap replicates of them.

        2 E|x - y| - E|x - x'| - E|y - y'|, the kernel distance of kernel -|x - y| (Sejdinovic et
        al. 2013, arXiv 1207.6076), which has no bandwidth and does not saturate. Unbiased: x and x'
        are different clips that do not overlap, also in a replicate that holds one twice.
        """
        x, apart = self.standard(clips), clips.apart().double()
        weights = _replicates(len(x), generator)
        cross = (weights * torch.cdist(x, self.features).mean(dim=1)).sum(1) / weights.sum(1)
        pairs = ((weights @ apart) * weights).sum(dim=1)
        between = ((weights @ (torch.cdist(x, x) * apart)) * weights).sum(dim=1) / pairs
        found: Tensor = 2 * cross - between - self._within
        return found

    def variety(self, clips: Described, generator: torch.Generator) -> Interval:
        """Mean distance to the nearest clip of the same set, over that of as many training clips.

        1: as varied as these; 0: each clip occurs at least twice.
        """
        x = self.standard(clips)
        own = _nearest(torch.cdist(x, x), clips.apart())
        count = min(len(x), len(self.features))
        draws = []
        for _ in range(20):
            rows = torch.randperm(len(self.features), generator=generator)[:count]
            draws.append(_nearest(self.between[rows][:, rows], self.apart[rows][:, rows]).nanmean())
        weights = _replicates(len(x), generator)
        ratio = (weights @ own.nan_to_num()) / (weights @ (~own.isnan()).double())
        return _interval(ratio / torch.stack(draws).nanmean().clamp(min=1e-9), len(x))

    def separation(self, clips: Described, seed: int = 0) -> Interval:
        """How well a classifier tells the clips from training clips: AUC, 0.5 not at all, 1 always.

        A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv 1610.06545) with extremely
        randomised trees, cross-validated. Training clips that overlap a tested one are left out
        of training, repeated samples are not: their copies are recognised, and the AUC rises.
        """
        x = self.standard(clips)
        both = torch.cat([self.features, x]).numpy()
        label = np.repeat([0, 1], [len(self.features), len(x)])
        related = np.zeros((len(both), len(both)), dtype=bool)
        related[: -len(x), : -len(x)] = ~self.apart
        related[-len(x) :, -len(x) :] = False if clips.overlaps is None else clips.overlaps
        rng = np.random.default_rng(seed)
        fold = np.concatenate([rng.permutation(len(z)) % FOLDS for z in (self.features, x)])
        chance = np.full(len(both), 0.5)
        for k in range(FOLDS):
            tested = fold == k
            known = ~tested & ~related[tested].any(axis=0)
            if len(np.unique(label[known])) < 2:
                continue
            trees = ExtraTreesClassifier(TREES, class_weight="balanced", random_state=seed)
            trees.fit(both[known], label[known])
            chance[tested] = trees.predict_proba(both[tested])[:, 1]
        mine, real = (torch.from_numpy(chance[label == of]) for of in (1, 0))
        above = torch.sign(mine[:, None] - real).add(1).div(2)
        generator = torch.Generator().manual_seed(seed)
        wx, wr = (_replicates(len(z), generator) for z in (mine, real))
        auc = ((wx @ above) * wr).sum(dim=1) / (wx.sum(dim=1) * wr.sum(dim=1))
        return _interval(auc, len(x))


@dataclass(frozen=True)
class FormScores:
    """All scores of sets of clips of one kind: latents, or sound."""

    lines: dict[str, Line]
    """By view."""
    separation: dict[str, Interval]
    """By set; see `Reference.separation`."""
    variety: dict[str, Interval]
    """By set; see `Reference.variety`."""


@dataclass(frozen=True)
class ClipSet:
    """Clips [B, C, T] with, where known, which of them overlap [B, B]."""

    clips: Tensor
    overlaps: Tensor | None = None


def score_form(
    views: Sequence[View],
    reference: ClipSet,
    sets: Mapping[str, ClipSet],
    white: str,
    held_out: ClipSet | None,
    generator: torch.Generator,
) -> FormScores:
    """Score `sets` by each view, and by a classifier and variety on the features of all views."""

    def describe(clips: ClipSet) -> dict[str, Described]:
        return {v.name: Described(v.describe(clips.clips), clips.overlaps) for v in views}

    def joined(found: Mapping[str, Described]) -> Described:
        parts = list(found.values())
        return Described(torch.cat([part.features for part in parts], dim=1), parts[0].overlaps)

    real, scale = describe(reference), None if held_out is None else describe(held_out)
    found = {name: describe(clips) for name, clips in sets.items()}
    lines = {}
    for view in real:
        of_view = {name: described[view] for name, described in found.items()}
        one = None if scale is None else scale[view]
        lines[view] = score(Reference(real[view]), of_view, white, one, generator)
    base = Reference(joined(real))
    return FormScores(
        lines,
        {name: base.separation(joined(each)) for name, each in found.items()},
        {name: base.variety(joined(each), generator) for name, each in found.items()},
    )


def score(
    reference: Reference,
    sets: Mapping[str, Described],
    white: str,
    held_out: Described | None,
    generator: torch.Generator,
) -> Line:
    """Scores of `sets`, among them `white`; they may be below 0 and above 1.

    `held_out`: the clips that stand for 1; None, fewer than FEWEST distinct ones, or too unlike
    training clips: a distance of 0 stands for 1, as other training clips have on average.
    """
    drawn = {name: reference.distances(clips, generator) for name, clips in sets.items()}
    floor, one = torch.zeros(1 + REPLICATES, dtype=torch.float64), "training clips"
    if held_out is not None and held_out.distinct() >= FEWEST:
        found = reference.distances(held_out, generator)
        if found[0] < USABLE * drawn[white][0]:
            floor, one = found, "held-out clips"
    scale = (drawn[white] - floor).clamp(min=1e-9)
    scores = {
        name: _interval((drawn[white] - each) / scale, len(sets[name].features), WIDEST)
        for name, each in drawn.items()
    }
    return Line(one, scores, {name: float(each[0]) for name, each in drawn.items()})


def _replicates(count: int, generator: torch.Generator) -> Tensor:
    """[1 + R, B] times that each clip is drawn: once, then at random with replacement."""
    rows = torch.randint(count, (REPLICATES, count), generator=generator)
    drawn = torch.zeros(REPLICATES, count).scatter_add_(1, rows, torch.ones(REPLICATES, count))
    return torch.cat([torch.ones(1, count), drawn]).double()


def _interval(values: Tensor, count: int, widest: float = float("inf")) -> Interval:
    """Of [1 + R] values, of which the first is the estimate; NaN are replicates without a pair."""
    rest = values[1:][values[1:].isfinite()]
    if count < FEWEST or not values[0].isfinite() or len(rest) < REPLICATES // 2:
        return Interval(None, None, None, f"{count} clips are too few")
    low, high = (float(rest.quantile(q)) for q in (0.025, 0.975))
    if high - low > widest:
        return Interval(None, low, high, f"{count} clips are too few: {low:.2f} to {high:.2f}")
    return Interval(float(values[0]), low, high)


def _nearest(between: Tensor, apart: Tensor) -> Tensor:
    """[B]; NaN for a clip that overlaps all others."""
    nearest = between.masked_fill(~apart, torch.inf).amin(dim=1)
    return nearest.masked_fill(nearest.isinf(), torch.nan)
