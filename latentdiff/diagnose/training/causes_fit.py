"""What can be wrong with the course of a training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from latentdiff.diagnose.training import advice
from latentdiff.diagnose.training.curve import Curve
from latentdiff.diagnose.training.findings import Finding, Severity
from latentdiff.evaluation.permutation import Exchange
from latentdiff.model.project import Project
from latentdiff.training.best_tracker import RISEN
from latentdiff.training.verdict import (
    BEAT_KINDS,
    FORM_LOGSNR,
    FORM_SKILL,
    LEARNABLE,
    NO_SKILL,
    formless,
)

BURST = 3.0
"""Loss over baseline in a row of metrics above which training was unstable for a while."""
BLOWN_UP = 8.0
"""Size of the weights over that of fresh ones. A good training of a day may reach it too, so it
counts only together with a burst or without skill."""
GAP = 0.05
"""Skill on training windows above that on held-out ones that is more than chance."""
LAST = 3
"""Validations that must all be worse than the best one."""
ONE_LEVEL = 0.6
"""Fluctuation of the loss, over that of one noise level a batch, above which it is the latter."""
NORMAL_MEDIAN = 0.6745
"""Median of |x| of a normal x, in standard deviations."""
UNEQUAL = 0.12
"""Standard deviation over levels of loss / baseline below which all levels count as equal."""
FEW_ROWS = 8
"""Rows of metrics below which fluctuation is not judged."""
NOT_TRAINED = -0.1
"""Skill on training windows below which a noise level was not trained on."""
FILTERED = 0.6
"""Share of a linear filter's skill that even a network with a small receptive field reaches."""
ALWAYS_CLIPPED = 5.0
"""Typical gradient norm over its limit above which nearly all gradients are clipped."""


def ran_away(
    curve: Curve,
    failure: str | None,
    skill: float | None,
    growth: float | None,
    settings: Project,
) -> Finding | None:
    """The learning rate is too high: the loss burst, or the weights blew up.

    `skill` on training windows; `growth`: size of the weights over that of fresh ones; None
    without a checkpoint.
    """
    broke = failure is not None and "NaN" in failure
    worst = max(curve.training, key=lambda row: row.ratio, default=None)
    burst = worst is not None and worst.ratio > BURST
    blown = growth is not None and growth > BLOWN_UP
    useless = skill is not None and skill < NO_SKILL
    if not (broke or (blown and (burst or useless)) or (growth is None and burst)):
        return None
    evidence = []
    if broke and failure is not None:
        evidence.append(f"the training ended: {failure.splitlines()[0]}")
    if worst is not None:
        evidence.append(
            f"loss {worst.loss:.3g} at step {worst.step}; knowing only variances gives "
            f"{worst.baseline:.3g}; learning rate up to {curve.peak_rate:.2g}"
        )
    if growth is not None:
        evidence.append(f"weights are {growth:.1f} times as large as fresh ones (healthy: 1 to 4)")
    if skill is not None:
        evidence.append(f"skill on training windows {skill:.2f} (0: nothing learned)")
    return Finding(
        "learning-rate-too-high",
        Severity.BREAKS,
        "the training diverged: its learning rate is too high",
        tuple(evidence),
        advice.ran_away(settings),
    )


def overfitting(curve: Curve, settings: Project) -> Finding | None:
    """The held-out loss rises while that on training windows falls."""
    best, last = curve.best, curve.validations[-LAST:]
    if best is None or len(last) < LAST or min(row.loss for row in last) < RISEN * best.loss:
        return None
    end = last[-1]
    if end.training is None or best.training is None or end.training_baseline is None:
        return None
    training, held_out = 1 - end.training / end.training_baseline, 1 - end.loss / end.baseline
    if end.training >= best.training or training - held_out < GAP:
        return None
    return Finding(
        "overfitting",
        Severity.COSTS,
        "overfitting: the model memorises its training files",
        (
            f"held-out loss rose from {best.loss:.4f} at step {best.step} to {end.loss:.4f} at "
            f"step {end.step}; on training windows it fell from {best.training:.4f} to "
            f"{end.training:.4f}",
            f"skill at the end {training:.2f} on training and {held_out:.2f} on held-out windows "
            "(healthy: about equal)",
        ),
        advice.overfitting(settings),
    )


def one_level_a_batch(curve: Curve, ratios: Sequence[float], settings: Project) -> Finding | None:
    """All windows of a batch have one noise level, so the loss jumps from batch to batch.

    `ratios`: loss over baseline on training windows at evenly spread levels. With levels spread
    over each batch, only the windows' own differences are left to make the loss fluctuate.
    """
    rows, between = curve.settled, statistics.pstdev(ratios)
    if len(rows) < FEW_ROWS or between < UNEQUAL:
        return None
    steps = statistics.median(b.step - a.step for a, b in pairwise(rows))
    # Of differences, so that neither a slow fall of the loss counts nor a single odd row.
    typical = statistics.median(abs(b.ratio - a.ratio) for a, b in pairwise(rows))
    # The difference of two independent rows has sqrt(2) times their standard deviation.
    jumps = typical / NORMAL_MEDIAN / math.sqrt(2)
    # A row is the mean of `steps` batches.
    expected = between / math.sqrt(steps)
    if jumps < ONE_LEVEL * expected:
        return None
    return Finding(
        "one-level-a-batch",
        Severity.COSTS,
        "every batch has a single noise level, so the loss jumps from batch to batch",
        (
            f"loss over baseline jumps by {jumps:.3f} from row to row; one level a batch makes "
            f"{expected:.3f} (healthy: about a third of that)",
        ),
        advice.one_level_a_batch(settings),
    )


def untrained_levels(
    logsnr: Sequence[float],
    losses: Sequence[float],
    baselines: Sequence[float],
    settings: Project,
) -> Finding | None:
    """At some noise levels the model is worse than the baseline, even on its training files."""
    skills = [1 - loss / base for loss, base in zip(losses, baselines, strict=True)]
    bad = [i for i, skill in enumerate(skills) if skill < NOT_TRAINED]
    if not bad or max(skills) < NO_SKILL:
        return None
    worst = min(bad, key=lambda i: skills[i])
    return Finding(
        "untrained-levels",
        Severity.COSTS,
        f"at {len(bad)} of {len(skills)} noise levels the model is worse than knowing nothing",
        (
            f"log-SNR {logsnr[worst]:+.1f}: loss {losses[worst]:.3f}, baseline "
            f"{baselines[worst]:.3f}, skill {skills[worst]:.2f}; best level {max(skills):.2f} "
            "(0: knows only variances; on training windows)",
        ),
        advice.untrained_levels(settings),
    )


def worse_than_nothing(curve: Curve, settings: Project) -> Finding | None:
    """Held-out losses have never been below those of knowing only variances.

    Read from the metrics alone, so that it is found where the model cannot be measured.
    """
    best = curve.best
    if best is None or best.loss < (1 - NO_SKILL) * best.baseline:
        return None
    return Finding(
        "no-held-out-skill",
        Severity.SYMPTOM,
        "the model does no better on held-out files than knowing nothing",
        (
            f"held-out loss {best.loss:.4f} at best, at step {best.step}; knowing only variances "
            f"gives {best.baseline:.4f}: skill {1 - best.loss / best.baseline:.2f} (healthy: well "
            "above 0)",
        ),
        advice.worse_than_nothing(settings),
    )


def no_skill(curve: Curve) -> bool:
    """Whether the training loss ended no lower than knowing only variances."""
    rows = curve.settled
    return bool(rows) and statistics.median(row.ratio for row in rows) > 1 - NO_SKILL


def no_form(
    skill: float | None, exchanges: Mapping[str, Exchange], settings: Project
) -> Finding | None:
    """The model has no skill at the noise levels where form is decided.

    `skill` there; None: the schedule has no such levels. `exchanges` by kind of condition.
    """
    followed = {kind for kind, found in exchanges.items() if found.grade in ("followed", "weak")}
    if skill is None or skill >= FORM_SKILL or followed & set(BEAT_KINDS):
        return None
    return Finding(
        "no-form",
        Severity.COSTS,
        formless(followed),
        (
            f"skill {skill:.2f} below log-SNR {FORM_LOGSNR:g}, where form is decided (healthy: "
            f"above {FORM_SKILL:g})",
        ),
        advice.no_form(settings),
    )


def is_underfit(skill: float, learnable: float) -> bool:
    """Whether a model knows less, on training windows, than a linear filter does."""
    return learnable >= LEARNABLE and skill < FILTERED * learnable


def underfit(skill: float, learnable: float, curve: Curve, settings: Project) -> Finding | None:
    """The model learned far less, on training windows, than a linear filter knows."""
    if not is_underfit(skill, learnable):
        return None
    evidence = [f"skill {skill:.2f} on training windows; a linear filter reaches {learnable:.2f}"]
    if curve.training:
        evidence.append(
            f"{curve.training[-1].step} steps at a learning rate of up to {curve.peak_rate:.2g}"
        )
    return Finding(
        "underfit",
        Severity.SYMPTOM,
        "nothing was learned" if skill < NO_SKILL else "the model learned less than a filter knows",
        tuple(evidence),
        advice.underfit(settings),
    )


def clipped(curve: Curve, settings: Project) -> Finding | None:
    """Nearly every gradient is clipped."""
    rows, limit = curve.settled, settings.training.gradient_clip
    if limit is None or not rows:
        return None
    typical = statistics.median(row.gradient_norm for row in rows)
    if typical < ALWAYS_CLIPPED * limit:
        return None
    return Finding(
        "clipped",
        Severity.SYMPTOM,
        "nearly every gradient is clipped",
        (f"typical norm {typical:.3g}; training.gradient_clip cuts it to {limit:g}",),
        advice.clipped(settings),
    )
