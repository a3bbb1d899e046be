"""Scores of sets of clips, from features taken clip by clip: distances, a classifier, variety.

Shapes: B clips of a set, n clips of the reference, F features, R bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.evaluation.frechet import Gaussian, distance
from latentdiff.evaluation.places import Places
from latentdiff.evaluation.windows import spread

REPLICATES = 200
FOLDS = 5
RIDGE = 0.01
"""Of the classifier, relative to its kernel."""
FEWEST = 8
"""Fewest clips that are scored."""
WIDEST = 1.0
"""Width of a 95 % interval of a score from which it says nothing: the whole scale."""
USABLE = 0.5
"""Share of white noise's distance up to which held-out clips can stand for 1."""
HELD_OUT_CLIPS, TRAINING_CLIPS = "held-out clips", "other training clips"
"""What a score of 1 stands for."""
FAILING = 0.5
"""Score below which a set fails: half way to white noise."""
TOLD = 0.75
"""AUC above which a set fails: half way from chance to certainty."""
_RANGE = (-10.0, 10.0)
"""Standardised features are clamped to this: one odd clip must not decide."""


@dataclass(frozen=True)
class Described:
    """A set of clips by their features."""

    features: dict[str, Tensor]
    """[B, F] by view; what is cut alike from the same clips has the same keys."""
    places: Places | None = None
    """Where the clips were cut; None: they share no sound because of that, as samples do not.
    Repeated samples are not overlaps: they are what the scores must see."""

    def __len__(self) -> int:
        """B."""
        return len(next(iter(self.features.values())))

    def apart(self, other: Described | None = None) -> Tensor:
        """[B, B'], whether a pair is of two clips that do not overlap; None: pairs of this set."""
        if other is None:
            return ~torch.eye(len(self), dtype=torch.bool) & self.apart(self)
        if self.places is None or other.places is None:
            return torch.ones(len(self), len(other), dtype=torch.bool)
        return ~self.places.overlaps(other.places)

    def distinct(self) -> int:
        """Clips that remain if of overlapping ones only the first is kept."""
        return len(self) if self.places is None else self.places.distinct()

    def view(self, name: str) -> Described:
        """The same clips by one view."""
        return Described({name: self.features[name]}, self.places)


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
    """Scores of sets: 1 as near to the training clips as `one`, 0 as white noise."""

    one: str
    """HELD_OUT_CLIPS; or TRAINING_CLIPS (a distance of 0) where there are too few held-out clips,
    or they differ from the training clips half as much as white noise does."""
    scores: dict[str, Interval]
    """By set; below 0 and above 1 too."""
    distances: dict[str, float]
    """Energy distance in standard deviations of the features; 0 is expected of equal sources."""
    separation: dict[str, Interval]
    """AUC of a classifier that tells the set from the training clips; see
    `Reference.separation`."""

    def smallest_difference(self, name: str) -> float | None:
        """Between two models, of the score of `name`, that is more than chance (5 %)."""
        interval = self.scores[name]
        if interval.low is None or interval.high is None:
            return None
        return 2**0.5 * (interval.high - interval.low) / 2


class Reference:
    """Training clips, with whose features all others are standardised and compared."""

    def __init__(self, clips: Described) -> None:
        self.clips = clips
        self._mean = {k: x.double().mean(dim=0) for k, x in clips.features.items()}
        self._scale = {k: x.double().std(dim=0).clamp(min=1e-4) for k, x in clips.features.items()}
        self.features = self.standard(clips)
        self.between = torch.cdist(self.features, self.features)
        self.apart = clips.apart()
        self._within = float(self.between[self.apart].mean())

    def standard(self, clips: Described) -> Tensor:
        """[B, F], clamped; every view weighs the same, and distances do not grow with F."""
        parts = []
        for view, features in clips.features.items():
            z = ((features.double() - self._mean[view]) / self._scale[view]).clamp(*_RANGE)
            parts.append(z / (z.shape[1] * len(clips.features)) ** 0.5)
        return torch.cat(parts, dim=1)

    def distance(self, clips: Described) -> float:
        """The first of `distances`."""
        return float(self._distances(clips, torch.ones(1, len(clips), dtype=torch.float64))[0])

    def distances(self, clips: Described, generator: torch.Generator) -> Tensor:
        """[1 + R] energy distances: of the clips, and of bootstrap replicates of them.

        2 E|x - y| - E|x - x'| - E|y - y'|, the kernel distance of kernel -|x - y| (Sejdinovic et
        al. 2013, arXiv 1207.6076), which has no bandwidth and does not saturate. Unbiased: all
        pairs are of different clips that do not overlap, also in a replicate that holds one twice.
        """
        return self._distances(clips, _replicates(len(clips), generator))

    def _distances(self, clips: Described, weights: Tensor) -> Tensor:
        """[R], for weights [R, B] of the clips."""
        x, apart = self.standard(clips), clips.apart().double()
        across = clips.apart(self.clips).double()
        each = (torch.cdist(x, self.features) * across).sum(dim=1) / across.sum(dim=1).clamp(min=1)
        cross = (weights * each).sum(dim=1) / weights.sum(dim=1)
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

        A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv 1610.06545), cross-validated.
        Training clips that overlap a tested one are left out of training, repeated samples are not:
        their copies are recognised, and the AUC rises.
        """
        between = torch.cat([self.features, self.standard(clips)])
        between = torch.cdist(between, between)
        across = clips.apart(self.clips)
        rows = [torch.cat(row, 1) for row in ((self.apart, across.T), (across, clips.apart()))]
        related = ~torch.cat(rows)
        label = torch.cat([-torch.ones(len(self.clips)), torch.ones(len(clips))])
        fold = torch.cat([_folds(self.clips, seed), _folds(clips, seed)])
        found = torch.zeros(len(label), dtype=torch.float64)
        for k in range(FOLDS):
            tested = fold == k
            known = ~tested & ~related[tested].any(dim=0)
            if len(label[known].unique()) == 2:
                classify = _Classifier(between[known][:, known], label[known])
                found[tested] = classify(between[tested][:, known])
        mine, real = found[label > 0], found[label < 0]
        above = torch.sign(mine[:, None] - real).add(1).div(2)
        generator = torch.Generator().manual_seed(seed)
        wx, wr = (_replicates(len(z), generator) for z in (mine, real))
        auc = ((wx @ above) * wr).sum(dim=1) / (wx.sum(dim=1) * wr.sum(dim=1))
        return _interval(auc, len(clips))


class _Classifier:
    """Kernel ridge regression of labels -1 and 1 with a Laplacian kernel.

    It tells sets of clips apart as well as random forests do, repeated clips too, in a hundredth of
    the time. Both labels weigh the same, however many clips have them.
    """

    def __init__(self, between: Tensor, label: Tensor) -> None:
        """`between` [n, n]: distances of the known clips; `label` [n]."""
        self._scale = between[between > 0].median() if (between > 0).any() else torch.ones(())
        share = (label[:, None] == label).double().mean(dim=1)
        kernel = torch.exp(-between / self._scale)
        self._weights = torch.linalg.solve(kernel + RIDGE * torch.diag(2 * share), label.double())

    def __call__(self, distances: Tensor) -> Tensor:
        """Of clips at `distances` [m, n] from the known ones: [m], positive for label 1."""
        value: Tensor = torch.exp(-distances / self._scale) @ self._weights
        return value


def _folds(clips: Described, seed: int) -> Tensor:
    """[B] folds: neighbours share one, so that few of the clips that overlap are in two."""
    if clips.places is not None:
        ranks = clips.places.ranks()
    else:
        ranks = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))
    return ranks * FOLDS // len(clips)


@dataclass(frozen=True)
class Failure:
    """A view by which a set of clips is unlike the training clips, beyond chance."""

    view: str
    """`all views` for the joint line."""
    score: float | None
    """Below FAILING; None: it is not."""
    auc: float | None
    """Above TOLD; None: it is not."""


@dataclass(frozen=True)
class FormScores:
    """All scores of sets of clips of one kind: latents, or sound."""

    joint: Line
    """Of all views together."""
    views: dict[str, Line]
    variety: dict[str, Interval]
    """By set; see `Reference.variety`."""
    frechet: dict[str, float]
    """Frechet distances to the training clips by set, as other papers give them; nothing here
    depends on them."""

    def failures(self, name: str) -> list[Failure]:
        """The views on which a set fails for certain: their whole interval does."""
        found = []
        for view, line in {"all views": self.joint, **self.views}.items():
            score, auc = line.scores[name], line.separation[name]
            failing = score.high is not None and score.high < FAILING
            told = auc.low is not None and auc.low > TOLD
            if failing or told:
                found.append(
                    Failure(view, score.value if failing else None, auc.value if told else None)
                )
        return found

    def told_by(self, name: str) -> tuple[str, float] | None:
        """The view by which a classifier tells a set best, and its AUC; None: too few clips."""
        known = {view: line.separation[name].value for view, line in self.views.items()}
        return max(
            ((view, auc) for view, auc in known.items() if auc is not None),
            key=lambda one: one[1],
            default=None,
        )


def score_form(
    sets: Mapping[str, Described],
    reference: str,
    white: str,
    held_out: str | None,
    windows: Mapping[str, Tensor],
    generator: torch.Generator,
) -> FormScores:
    """Score all sets but the one called `reference`; `white` and `held_out` name the scale.

    `windows`: features [n, F] of short windows by set, for the Frechet distance.
    """
    real, others = sets[reference], {k: x for k, x in sets.items() if k != reference}
    base = Reference(real)
    # The distance is biased by the number of windows.
    fewest = min(map(len, windows.values()), default=0)
    fits = {name: Gaussian.fit(x[spread(len(x), fewest)]) for name, x in windows.items()}
    return FormScores(
        score(base, others, white, held_out, generator),
        {
            view: score(
                Reference(real.view(view)),
                {name: clips.view(view) for name, clips in others.items()},
                *(white, held_out, generator),
            )
            for view in real.features
        },
        {name: base.variety(clips, generator) for name, clips in others.items()},
        {name: distance(fits[reference], fit) for name, fit in fits.items() if name != reference},
    )


def score(
    reference: Reference,
    sets: Mapping[str, Described],
    white: str,
    held_out: str | None,
    generator: torch.Generator,
) -> Line:
    """Score sets, among them `white` and `held_out`.

    `held_out`: the clips that stand for 1. None, fewer than FEWEST distinct ones, or too unlike
    training clips: a distance of 0 stands for 1, as other training clips have on average.
    """
    drawn = {name: reference.distances(clips, generator) for name, clips in sets.items()}
    floor, one = torch.zeros(1 + REPLICATES, dtype=torch.float64), TRAINING_CLIPS
    if held_out is not None and sets[held_out].distinct() >= FEWEST:
        found = drawn[held_out]
        if found[0] < USABLE * drawn[white][0]:
            floor, one = found, HELD_OUT_CLIPS
    scale = (drawn[white] - floor).clamp(min=1e-9)
    scores = {
        name: _interval((drawn[white] - each) / scale, len(sets[name]), WIDEST)
        for name, each in drawn.items()
    }
    return Line(
        one,
        scores,
        {name: float(each[0]) for name, each in drawn.items()},
        {name: reference.separation(clips) for name, clips in sets.items()},
    )


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
