"""What an evaluation finds wrong with the samples: a line each, only where it is beyond chance."""

from __future__ import annotations

from latentdiff.evaluation import sets
from latentdiff.evaluation.coherence import Horizon
from latentdiff.evaluation.scores import FAILING, TOLD, Failure
from latentdiff.model.evaluate.results import EvaluationResult

REPEATED = 0.5
"""Variety below which samples are called repetitive."""


def findings(result: EvaluationResult) -> list[str]:
    """Empty if nothing is wrong for certain."""
    return [*_views(result), *_variety(result), *_time(result), *_copies(result)]


def _views(r: EvaluationResult) -> list[str]:
    return [
        _failure(kind, failure)
        for kind, form in r.kinds.items()
        for failure in form.failures(sets.SAMPLES)
    ]


def _failure(kind: str, failure: Failure) -> str:
    reasons = []
    if failure.score is not None:
        reasons.append(f"their score is {failure.score:.2f} (below {FAILING:g})")
    if failure.auc is not None:
        reasons.append(f"a classifier tells them, AUC {failure.auc:.2f} (above {TOLD:g})")
    return f"by {failure.view} of {kind} they are unlike training clips: {', and '.join(reasons)}"


def _variety(r: EvaluationResult) -> list[str]:
    varieties = {kind: form.variety[sets.SAMPLES] for kind, form in r.kinds.items()}
    return [
        f"they are alike: variety of {kind} is {one.value:.2f}, that of training clips 1"
        for kind, one in varieties.items()
        if one.value is not None and one.high is not None and one.high < REPEATED
    ]


def _time(r: EvaluationResult) -> list[str]:
    lines = []
    found, moved = r.coherence[sets.SAMPLES], r.wandering.get(sets.SAMPLES)
    if found.continuity is not None and not found.continuity.whole:
        lines.append(f"they stay one piece for {_of(found.continuity)}, then change")
    if found.beat is not None and not found.beat.whole:
        lines.append(f"they keep time for {_of(found.beat)}")
    if moved is not None and moved.found:
        lines.append(
            f"they wander: clips move {moved.within.ratio:.1f} times as far as training clips, but "
            f"are only {moved.between.ratio:.1f} times as different from each other"
        )
    return lines


def _of(horizon: Horizon) -> str:
    return f"{horizon.seconds:.1f} s of {horizon.longest:.1f} s"


def _copies(r: EvaluationResult) -> list[str]:
    if not r.copying.found:
        return []
    return [
        f"they copy training recordings: {r.copying.share:.0%} of them, p {r.copying.p:.1g}, the "
        "chance of real clips to come this close to other recordings"
    ]
