"""Settings that are orders of magnitude away from what trains."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from latentdiff.diagnose.training import advice
from latentdiff.diagnose.training.curve import Curve
from latentdiff.diagnose.training.findings import Finding, Severity
from latentdiff.model.project import Project
from latentdiff.training.settings import TrainingConfig

DEFAULT = TrainingConfig()
STRONG_DECAY = 3.0
"""training.weight_decay from which AdamW's weights, which then stay below 1 / decay, are smaller
than those of a fresh network."""
ONE = 1.0
"""Decay that all steps together must have for that: weight_decay * learning rate * steps."""
TINY_CLIP = 0.01
"""training.gradient_clip over the typical norm of the gradient below which AdamW's epsilon, meant
to be negligible, rules its steps."""
SLOW = 30.0
"""Factor below the default learning rate from which a rate is suspected."""
LATE = 0.5
"""Share of the training that the warm-up may take."""


def far_settings(curve: Curve, settings: Project, underfitted: bool) -> list[Finding]:
    """Settings far from their defaults, as causes of a model that learned too little.

    `underfitted`: whether it did; without that, odd settings are the user's choice, but for a
    clip that leaves nothing of the gradient's size.
    """
    clip = _clip(curve, settings)
    if not underfitted:
        return [] if clip is None else [replace(clip, severity=Severity.COSTS)]
    found = (
        _decay(curve, settings),
        clip,
        _slow(settings),
        _warm_up(curve, settings),
    )
    return [finding for finding in found if finding is not None]


def _decay(curve: Curve, settings: Project) -> Finding | None:
    training = settings.training
    steps = curve.training[-1].step if curve.training else 0
    whole = training.weight_decay * training.learning_rate * steps
    if training.weight_decay < STRONG_DECAY or whole < ONE:
        return None
    return _finding(
        "weight-decay-too-strong",
        "weight decay undoes what is learned",
        f"training.weight_decay={training.weight_decay:g} (default: {DEFAULT.weight_decay:g}) "
        f"takes {training.weight_decay * training.learning_rate:.2g} of every weight in a step",
        advice.strong_decay(),
    )


def _clip(curve: Curve, settings: Project) -> Finding | None:
    limit, rows = settings.training.gradient_clip, curve.settled
    if limit is None or not rows:
        return None
    typical = statistics.median(row.gradient_norm for row in rows)
    if limit >= TINY_CLIP * typical or limit >= TINY_CLIP * (DEFAULT.gradient_clip or 1.0):
        return None
    return _finding(
        "gradient-clip-too-low",
        "gradients are clipped to next to nothing",
        f"training.gradient_clip={limit:g} (default: {DEFAULT.gradient_clip:g}); their typical "
        f"norm is {typical:.2g}",
        advice.low_clip(),
    )


def _slow(settings: Project) -> Finding | None:
    rate = settings.training.learning_rate
    if rate * SLOW > DEFAULT.learning_rate:
        return None
    return _finding(
        "learning-rate-too-low",
        "the learning rate is too low for so few steps",
        f"training.learning_rate={rate:g} (default: {DEFAULT.learning_rate:g})",
        advice.low_rate(),
    )


def _warm_up(curve: Curve, settings: Project) -> Finding | None:
    warm_up = settings.training.warmup_steps
    if warm_up is None or not curve.training or warm_up < LATE * curve.training[-1].step:
        return None
    return _finding(
        "warm-up-too-long",
        "most of the training was its warm-up",
        f"training.warmup_steps={warm_up} of {curve.training[-1].step} steps",
        advice.long_warm_up(),
    )


def _finding(cause: str, title: str, evidence: str, do_this: str) -> Finding:
    return Finding(cause, Severity.BREAKS, title, (evidence,), do_this)


def blamed(found: Sequence[Finding]) -> bool:
    """Whether settings explain that nothing was learned, which a high rate would else."""
    return any(finding.severity is Severity.BREAKS for finding in found)
