"""What `diagnose overfit` says: each distance beside what it must be, and the verdict in words."""

from __future__ import annotations

from typing import Any

LEVEL = 1.05
"""Times the distance of one step by which that of more steps may exceed it and still be level."""
ROUNDING = 0.005
"""Distance below which differences do not count."""
LEARNED = 0.3
"""Distance above which a sample is not the target."""


def text(results: dict[str, Any]) -> str:
    """The results of the diagnosis (as its JSON holds them) as text."""
    return "\n\n".join(
        "\n".join(part) for part in (_head(results), _table(results), verdict(results))
    )


def verdict(results: dict[str, Any]) -> list[str]:
    """In words."""
    rows = results["distances"]
    worst = max(rows[1:], key=lambda row: row["median"])
    told = list(
        {
            row["steps"]: f"{row['median']:.3f} with {row['steps']}" for row in (worst, rows[-1])
        }.values()
    )
    found = ", ".join([f"{rows[0]['median']:.3f} with one step", *told])
    if rising(results):
        return [f"verdict: FEWER STEPS ARE BETTER: {found}.", *_why(results)]
    lines = [f"verdict: more steps are not worse: {found}."]
    if rows[-1]["median"] > LEARNED:
        lines.append("But none of the samples is the target: train longer (--steps, --minutes).")
    return lines


def rising(results: dict[str, Any]) -> bool:
    """Whether more steps lead farther from the target than one does."""
    one, *more = (row["median"] for row in results["distances"])
    # Not `>`: what is no number has gone farthest.
    return not all(x <= LEVEL * one + ROUNDING for x in more)


def _head(results: dict[str, Any]) -> list[str]:
    return [
        f"target: {results['target']} ({results['channels']} channels, {results['frames']} frames)",
        f"trained on nothing else for {results['steps']} steps: loss {results['loss']:.4f}, "
        f"baseline {results['baseline']:.4f}, skill {results['skill']:.3f}",
        f"sampled with {results['sampler']}, {results['samples']} seeds. Distance: of the nearest "
        "target, in RMS over its own.",
        "0: the target; 1: as far as silence is; 1.41: as far as other noise of its strength",
    ]


def _table(results: dict[str, Any]) -> list[str]:
    lines = [f"{'steps':>6}{'distance':>10}  over seeds"]
    for row in results["distances"]:
        spread = f"{row['least']:.3f} to {row['most']:.3f}"
        lines.append(f"{row['steps']:6}{row['median']:10.3f}  {spread}")
    return lines


def _why(results: dict[str, Any]) -> list[str]:
    if results["as_in_notebook"]:
        return [
            "As in the notebook (N83 to N103, N112 to N116): the network answers best the first "
            "time, and every",
            "further answer is worse: outside training BatchNorm uses statistics that mix all "
            "noise levels.",
            "Without --as-in-notebook that is gone.",
        ]
    return [
        "A model of a single target has one answer at every level. Either it has not learned it at "
        "all of them",
        "(train longer: --steps, --minutes), or something is wrong with network or sampler "
        "(`latentdiff diagnose sampler`).",
    ]
