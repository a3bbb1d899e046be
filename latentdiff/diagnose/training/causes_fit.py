"""What can be wrong with the course of a training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from latentdiff.diagnose.training.curve import Curve
from latentdiff.diagnose.training.findings import Finding, Weight
from latentdiff.training.best_tracker import RISEN
from latentdiff.training.verdict import LEARNABLE, NO_SKILL

BURST = 3.0
"""Loss over baseline in a line of metrics from which training has run away for a while."""
BLOWN_UP = 8.0
"""Size of weights over that of fresh ones, which a good training of a day may come to also."""
GAP = 0.05
"""Skill on training over held-out windows that is more than chance."""
LAST = 3
"""Validations that must all be worse than the best one."""
ONE_LEVEL = 0.6
"""Fluctuation of the loss, in units of what one level a batch makes, from which it is that."""
NORMAL_MEDIAN = 0.6745
"""Median of |x| of a normal x, in its standard deviations."""
UNEQUAL = 0.12
"""Deviation of loss over baseline between levels that lets the two be told apart."""
FEW_LINES = 8
NOT_TRAINED = -0.1
"""Skill on training windows below which a noise level was not trained on."""
FILTERED = 0.6
"""Share of a filter's skill that a network of few frames' sight reaches at least, once trained."""
ALWAYS_CLIPPED = 5.0
"""Typical gradient norm over its limit from which clipping is the rule."""


def ran_away(
    curve: Curve, failure: str | None, skill: float | None, growth: float | None
) -> Finding | None:
    """The learning rate is too high: losses burst, or weights grew out of use.

    `skill` on training windows, `growth`: size of the weights over that of fresh ones; None where
    there is no checkpoint.
    """
    broke = failure is not None and "NaN" in failure
    worst = max(curve.lines, key=lambda line: line.ratio, default=None)
    burst = worst is not None and worst.ratio > BURST
    blown = growth is not None and growth > BLOWN_UP
    useless = skill is not None and skill < NO_SKILL
    if not (broke or (blown and (burst or useless)) or (growth is None and burst)):
        return None
    evidence = []
    if broke and failure is not None:
        evidence.append(f"the training ended: {failure.splitlines()[0]}")
    if worst is not None:
        rate = max(line.learning_rate for line in curve.lines)
        evidence.append(
            f"loss {worst.loss:.3g} at step {worst.step} beside a baseline of {worst.baseline:.3g} "
            f"(a model that knows nothing scores that), learning rate up to {rate:.2g}"
        )
    if growth is not None:
        evidence.append(f"weights are {growth:.1f} times as large as fresh ones (sound: 1 to 4)")
    if skill is not None:
        evidence.append(f"skill on training windows {skill:.2f} (0: nothing learned)")
    return Finding(
        "learning-rate-too-high",
        Weight.BREAKS,
        "the training ran away: its learning rate is too high",
        tuple(evidence),
        "train anew with a tenth of training.learning_rate, and again with a hundredth if this "
        "comes back; keep training.gradient_clip.",
    )


def overfitting(curve: Curve) -> Finding | None:
    """The held-out loss rises while that of training windows falls."""
    best, last = curve.best, curve.checks[-LAST:]
    if best is None or len(last) < LAST or min(c.loss for c in last) < RISEN * best.loss:
        return None
    end = last[-1]
    if end.training is None or best.training is None or end.training_baseline is None:
        return None
    seen, unseen = 1 - end.training / end.training_baseline, 1 - end.loss / end.baseline
    if end.training >= best.training or seen - unseen < GAP:
        return None
    return Finding(
        "overfitting",
        Weight.COSTS,
        "overfitting: the model learns its files by heart",
        (
            f"held-out loss rose from {best.loss:.4f} at step {best.step} to {end.loss:.4f} at "
            f"step {end.step}; on training windows it fell from {best.training:.4f} to "
            f"{end.training:.4f}",
            f"skill at the end {seen:.2f} on training and {unseen:.2f} on held-out windows (sound: "
            "about equal)",
        ),
        "add recordings, or take a smaller network; training.patience ends such trainings early. "
        "Samples come from the weights before the rise, which are kept as `best`.",
    )


def one_level_a_batch(curve: Curve, ratios: Sequence[float]) -> Finding | None:
    """All windows of a batch have one noise level, so that losses jump with it.

    `ratios`: loss over baseline on training windows at evenly spread levels. Levels spread over
    each batch leave only the windows' own differences.
    """
    lines, between = curve.settled, statistics.pstdev(ratios)
    if len(lines) < FEW_LINES or between < UNEQUAL:
        return None
    steps = statistics.median(b.step - a.step for a, b in pairwise(lines))
    # Of differences, so that a slow fall of the loss does not count, nor a single odd line.
    typical = statistics.median(abs(b.ratio - a.ratio) for a, b in pairwise(lines))
    jumps = typical / NORMAL_MEDIAN / math.sqrt(2)
    expected = between / math.sqrt(steps)
    if jumps < ONE_LEVEL * expected:
        return None
    return Finding(
        "one-level-a-batch",
        Weight.COSTS,
        "every batch is of one noise level, so that the loss jumps with it",
        (
            f"loss over baseline jumps by {jumps:.3f} from line to line; one level a batch makes "
            f"{expected:.3f}, levels spread over each batch about a third of that",
        ),
        "draw a level for each window of a batch, as diffusion.levels does.",
    )


def untrained_levels(
    logsnr: Sequence[float], losses: Sequence[float], baselines: Sequence[float]
) -> Finding | None:
    """At some levels the model is worse than one that knows nothing, on its own training files."""
    skills = [1 - loss / base for loss, base in zip(losses, baselines, strict=True)]
    bad = [i for i, skill in enumerate(skills) if skill < NOT_TRAINED]
    if not bad or max(skills) < NO_SKILL:
        return None
    worst = min(bad, key=lambda i: skills[i])
    return Finding(
        "untrained-levels",
        Weight.COSTS,
        f"{len(bad)} of {len(skills)} noise levels are worse than knowing nothing",
        (
            f"log-SNR {logsnr[worst]:+.1f}: loss {losses[worst]:.3f}, baseline "
            f"{baselines[worst]:.3f}, skill {skills[worst]:.2f}; best level {max(skills):.2f} "
            "(0: knows variances only; on training windows)",
        ),
        "see that training visits all levels that sampling does (diffusion.levels, "
        "diffusion.schedule), and that nothing in the network mixes them; with "
        "diffusion.precondition=true every level begins at skill 0.",
    )


def underfit(skill: float, learnable: float, curve: Curve) -> Finding | None:
    """Far less learned, on training windows, than a mere filter knows."""
    if skill >= FILTERED * learnable or learnable < LEARNABLE:
        return None
    evidence = [
        f"skill {skill:.2f} on training windows; a filter that knows their spectrum reaches "
        f"{learnable:.2f}"
    ]
    if curve.lines:
        rate = max(line.learning_rate for line in curve.lines)
        evidence.append(f"{curve.lines[-1].step} steps at a learning rate of up to {rate:.2g}")
    return Finding(
        "underfit",
        Weight.SYMPTOM,
        "nothing was learned" if skill < NO_SKILL else "less was learned than a filter knows",
        tuple(evidence),
        "train longer; try ten times training.learning_rate, and a tenth.",
    )


def clipped(curve: Curve, limit: float | None) -> Finding | None:
    """Nearly every gradient is cut to its limit."""
    lines = curve.settled
    if limit is None or not lines:
        return None
    typical = statistics.median(line.gradient_norm for line in lines)
    if typical < ALWAYS_CLIPPED * limit:
        return None
    return Finding(
        "clipped",
        Weight.SYMPTOM,
        "nearly every gradient is clipped",
        (f"typical norm {typical:.3g}, limit training.gradient_clip {limit:g} (above it: cut)",),
        "lower training.learning_rate; with a loss weighting that puts out large values, raise "
        "training.gradient_clip.",
    )
