"""The text of `diagnose overfit`: distances, and the verdict."""

from __future__ import annotations

from latentdiff.diagnose.overfit.results import Results, Verdict


def text(results: Results) -> str:
    """Table and verdict."""
    parts = (_head(results), _table(results), verdict(results))
    return "\n\n".join("\n".join(part) for part in parts)


def verdict(results: Results) -> list[str]:
    """Headline and explanation, a line each."""
    kind = results.verdict
    return [f"verdict: {HEADLINES[kind]}: {_distances(results)}.", *_explanation(results, kind)]


HEADLINES: dict[Verdict, str] = {
    "not learned": "not learned yet, so numbers of steps cannot be compared",
    "fewer steps are better": "FEWER STEPS ARE BETTER",
    "not reached": "learned in training, but no sample comes near",
    "more steps are not worse": "more steps are not worse",
}


def _distances(results: Results) -> str:
    """Distances with one step, with the worst number of steps, and with the largest."""
    one, *more = results.distances
    # `max` cannot compare NaN, which is worst.
    worst = max(more, key=lambda row: (row.median != row.median, row.median))
    further = {row.steps: f"{row.median:.3f} with {row.steps}" for row in (worst, more[-1])}
    return ", ".join([f"{one.median:.3f} with one step", *further.values()])


def _explanation(results: Results, kind: Verdict) -> list[str]:
    if kind == "not learned":
        return [
            "Train longer (--steps, --minutes). The noisiest levels are learned first, and one "
            "step needs only these,",
            "so an undertrained model always seems to do better with fewer steps (skill "
            f"{results.skill:.2f}; near 1: learned).",
        ]
    if kind == "fewer steps are better" and results.as_in_notebook:
        return [
            "As in the notebook (N83 to N103, N112 to N116): the network's first answer is its "
            "best, because outside",
            "training BatchNorm uses statistics that mix all noise levels. Without "
            "--as-in-notebook this does not happen.",
        ]
    if kind == "more steps are not worse":
        return []
    return [
        "A model of a single target has one answer at every noise level, and training has learned "
        "it: so something is wrong",
        "with the network outside training or with the sampler (`latentdiff diagnose sampler`).",
    ]


def _head(r: Results) -> list[str]:
    return [
        f"target: {r.target} ({r.channels} channels, {r.frames} frames)",
        f"trained on nothing else for {r.steps} steps: loss {r.loss:.4f}, baseline "
        f"{r.baseline:.4f}, skill {r.skill:.3f}",
        f"sampled with {r.sampler}, {r.samples} seeds. Distance: RMS difference from the nearest "
        "target over the target's own RMS.",
        "0: the target; 1: as far as silence; 1.41: as far as unrelated noise of the same strength",
    ]


def _table(results: Results) -> list[str]:
    lines = [f"{'steps':>6}{'distance':>10}  over seeds"]
    for row in results.distances:
        spread = f"{row.least:.3f} to {row.most:.3f}"
        lines.append(f"{row.steps:6}{row.median:10.3f}  {spread}")
    return lines
