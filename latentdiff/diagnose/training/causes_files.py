"""What can be wrong with the files that a model was trained on: with some of them, or the split."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latentdiff.diagnose.training import advice
from latentdiff.diagnose.training.findings import Finding, Severity
from latentdiff.evaluation.leaks import Leak
from latentdiff.latents.outliers import Kind, Outliers
from latentdiff.training.validation import Validation
from latentdiff.training.verdict import some

TITLES: dict[Kind, tuple[str, Severity, str]] = {
    "codecs": (
        "mixed-codecs",
        Severity.BREAKS,
        "the latents are of different codecs",
    ),
    "offset": ("offset-files", Severity.BREAKS, "some latents are shifted by a constant"),
    "scale": ("scaled-files", Severity.BREAKS, "some latents are far larger than the others"),
    "level": ("loud-files", Severity.COSTS, "some recordings are far louder than the others"),
    "constant": ("silence", Severity.BREAKS, "most of the training material stands still"),
}
"""Cause, severity and title of each kind of outliers."""
SMALL = "small-files"
MOSTLY = 0.5
"""Share of all frames at rest above which silence decides what is learned."""
UNSURE = 0.1
"""Half of the 95 % interval of the held-out loss, over the loss, above which it says little."""
FEWEST = 4
"""Held-out windows below which not even the interval is known."""


def outliers(found: Sequence[Outliers], files: int) -> list[Finding]:
    """Files that do not belong with the others; `files`: how many there are."""
    resting = [each for each in found if each.kind == "constant"]
    if any(len(each.keys) >= MOSTLY * files for each in resting):
        # Means and deviations of files that are mostly silent say nothing.
        found = resting
    return [_outlier(each, files) for each in found]


def _outlier(found: Outliers, files: int) -> Finding:
    cause, severity, title = TITLES[found.kind]
    if found.kind == "scale" and found.value < 1:
        cause, title = SMALL, "some latents are far smaller than the others"
    if found.kind == "constant" and len(found.keys) < MOSTLY * files:
        severity, title = Severity.COSTS, "some of the training material stands still"
    return Finding(
        cause,
        severity,
        title,
        (found.text, f"of {files} files: {some(found.keys)}"),
        advice.outliers(found.kind),
    )


def leak(found: Sequence[Leak]) -> Finding | None:
    """Held-out files are also trained on, so that held-out figures show nothing."""
    if not found:
        return None
    pairs = [f"{each.held_out} is {each.training}" for each in found]
    return Finding(
        "leak",
        Severity.BREAKS,
        "held-out files are among the training files",
        (f"{len(found)} of them (healthy: none): {some(pairs)}",),
        advice.leak(),
    )


def uncertain(held_out: Validation, windows: Sequence[float]) -> str | None:
    """Why held-out figures say little; None if they are exact enough.

    `windows`: mean loss of each held-out window.
    """
    count = len(windows)
    if count < FEWEST:
        return f"held-out files: they hold only {count} window(s), too few to say anything"
    mean = sum(windows) / count
    deviation = math.sqrt(sum((loss - mean) ** 2 for loss in windows) / (count - 1))
    half = 1.96 * deviation / math.sqrt(count) / max(mean, 1e-12)
    if half < UNSURE:
        return None
    low, high = (1 - held_out.loss * (1 + s * half) / held_out.baseline for s in (1, -1))
    return (
        f"held-out files: {count} windows are too few; the held-out skill is somewhere between "
        f"{low:.2f} and {high:.2f}"
    )
