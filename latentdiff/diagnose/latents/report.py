"""The text of `diagnose latents`: every number with the one to compare it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from latentdiff.diagnose.latents.results import Direction, LatentsResults
from latentdiff.evaluation.profile import NORMAL_WITHIN
from latentdiff.latents.statistics import LEAST_BITS

SHOWN = 3
"""Directions listed beyond those that carry sound or are kept."""
MOST = 20
"""Directions listed at most, from the first; the JSON file holds them all."""


def text(r: LatentsResults) -> str:
    """The whole report."""
    parts = [_head(r), _verdict(r), _directions(r), _drawn(r), _ranges(r), _losses(r)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(r: LatentsResults) -> list[str]:
    seconds = r.frame_seconds
    length = "" if seconds is None else f" = {r.frames * seconds / 60:.1f} minutes"
    return [
        f"{r.latents}: {r.files} training files, {r.frames} frames{length}, "
        f"{r.dimensions} dimensions"
    ]


def _verdict(r: LatentsResults) -> list[str]:
    return [*(_known(r) if r.bits is not None else _unknown(r)), *_keeps(r)]


def _known(r: LatentsResults) -> list[str]:
    bits, seconds = r.bits or 0.0, r.frame_seconds
    rate = "" if seconds is None else f", {bits / seconds:.0f} a second"
    rest = r.dimensions - r.carrying
    return [
        f"{r.carrying} of {r.dimensions} dimensions carry sound: along each of them the encoder "
        f"sends more than {LEAST_BITS} bits a frame ({bits:.1f} in total{rate}).",
        f"The other {rest} are the encoder's own noise.",
        *([] if r.carrying else ["Train the codec longer, or with a smaller rave.beta."]),
    ]


def _unknown(r: LatentsResults) -> list[str]:
    lines = [
        f"At most {r.dimensions - r.noise} of {r.dimensions} dimensions carry sound. The encoder's "
        "own noise is unknown, because these latents came without it."
    ]
    if r.noise:
        lines.append(
            f"{r.noise} directions look like pure noise (white along time and normal, which the "
            "means of a codec hardly ever are)."
        )
    if 2 * r.noise > r.dimensions:
        lines.append(
            "These latents look like draws from the encoder's posterior. Encode again with "
            "`latentdiff encode`, which stores the means."
        )
    return lines


def _keeps(r: LatentsResults) -> list[str]:
    if r.trouble:
        return [f"latents.keep={r.keep} cannot be met: {r.trouble}."]
    share = sum(r.directions[k].variance for k in r.kept)
    total = max(sum(row.variance for row in r.directions), 1e-300)
    return [
        f"latents.keep={r.keep}: a diffusion model sees {len(r.kept)} directions with "
        f"{100 * share / total:.3g} % of the variance."
    ]


def _directions(r: LatentsResults) -> list[str]:
    rows, columns = r.directions, _columns(r)
    last = max([r.carrying, *(k + 1 for k in r.kept)]) + SHOWN
    shown = [*range(min(last, MOST, len(rows))), len(rows) - 1]
    lines = ["principal directions", *(_line([c.heads[i] for c in columns]) for i in (0, 1))]
    for k in dict.fromkeys(shown):
        if k == len(rows) - 1 > len(shown) - 1:
            lines.append("  ...")
        lines.append(_line([column.cell(k, rows[k]) for column in columns]))
    lines.append(
        f"  (white noise: lag 1 0.00, kurtosis 0.0, {NORMAL_WITHIN:.2f} within 1 std; correlation "
        "time: until the autocorrelation falls below 1/e)"
    )
    return lines


class _Column(NamedTuple):
    """One column of the table: two header lines, and a cell for direction k."""

    heads: tuple[str, str]
    cell: Callable[[int, Direction], str]


def _columns(r: LatentsResults) -> list[_Column]:
    frame, known = r.frame_seconds, r.posterior_known
    unit, scale = ("frames", 1.0) if frame is None else ("ms", 1000 * frame)
    columns = [
        (True, "", "direction", lambda k, x: str(k + 1)),
        (True, "variance", "as stored", lambda k, x: f"{x.variance:.3g}"),
        (known, "posterior", "variance", lambda k, x: f"{x.posterior:.3g}"),
        (known, "bits", "a frame", lambda k, x: f"{x.bits:.2f}"),
        (True, "variance", "so far", lambda k, x: f"{x.fidelity:.1%}"),
        (True, "", "kept", lambda k, x: "yes" if k in r.kept else "-"),
        (True, "autocorr.", "lag 1", lambda k, x: f"{x.lag_1:.2f}"),
        (True, "corr.time", unit, lambda k, x: f"{scale * x.correlation_time:.3g}"),
        (True, "excess", "kurtosis", lambda k, x: f"{x.kurtosis:.1f}"),
        (True, "within", "1 std", lambda k, x: f"{x.within_1_std:.2f}"),
        (known, "if drawn:", "variance", lambda k, x: f"{x.drawn_variance:.3g}"),
        (known, "", "lag 1", lambda k, x: f"{x.drawn_lag_1:.2f}"),
        (known, "", "kurtosis", lambda k, x: f"{x.drawn_kurtosis:.1f}"),
    ]
    return [_Column((above, below), cell) for there, above, below, cell in columns if there]


def _line(cells: list[str]) -> str:
    return "".join(f"{cell:>10}" for cell in cells).rstrip()


def _drawn(r: LatentsResults) -> list[str]:
    if r.noise_if_drawn is None:
        return []
    return [
        f"Drawn from the posterior instead of taking its mean, {r.noise_if_drawn} of "
        f"{r.dimensions} directions would be white along time and normal (as stored: {r.noise}).",
        "Latents that look perfectly normal are a warning: what looks normal is the drawn noise.",
    ]


def _ranges(r: LatentsResults) -> list[str]:
    names = {"raw": "raw latents", "final": f"those that a model sees ({len(r.kept)})"}
    cells = ("min", "max", "mean", "std", "> +-1", "of frames", "> 4 std", "of frames")
    lines = [f"{'range of all values':32}" + _line(list(cells))]
    for key, values in r.extent.items():
        numbers = [f"{x:.2f}" for x in (values.minimum, values.maximum, values.mean, values.std)]
        for cut in (values.beyond_unit, values.beyond_far):
            numbers += [f"{cut.values:.2%}", f"{cut.frames:.1%}"]
        lines.append(f"  {names[key]:30}" + _line(numbers))
    reach = r.extent["raw"].noise_reaches
    noise = [
        f"{-reach:.2f}",
        f"{reach:.2f}",
        "0.00",
        "1.00",
        f"{1 - NORMAL_WITHIN:.2%}",
        "",
        "0.01%",
    ]
    lines += [
        f"  {'as many values of white noise':30}" + _line(noise),
        "  > +-1: clipped by a clamp to -1..1, which is meant for audio; of frames: share of the "
        "frames with at least one such value",
    ]
    return lines


def _losses(r: LatentsResults) -> list[str]:
    loss = r.loss
    what = "latents drawn from the posterior" if loss.of_draws else "these latents"
    rows = loss.objectives.values()
    bounded = not loss.of_draws and all(row.floor is not None for row in rows)
    at_least = ", at least" if bounded else ""
    lines = [
        f"losses on {what}, all {r.dimensions} directions scaled to variance 1, schedule "
        f"{loss.schedule}",
        " " * 42 + "".join(f"{name:>10}" for name in loss.objectives),
        _row("predicting zero", [f"{row.zero:.3f}" for row in rows]),
        _row("knowing only variances (skill 0)", [f"{row.variance:.3f}" for row in rows]),
        _row(
            f"knowing all but the noise{at_least}",
            ["unknown" if row.floor is None else f"{row.floor:.3f}" for row in rows],
        ),
        _row(
            f"share that cannot be learned{at_least}",
            ["unknown" if x.unlearnable is None else f"{x.unlearnable:.0%}" for x in rows],
        ),
    ]
    bounds = loss.one_output.get("l1")
    if bounds is not None:
        lines.append(
            f"  one output channel for all {r.dimensions} directions, however much it knows: eps "
            f"l1 {bounds[0]:.3f} to {bounds[1]:.3f}, on any schedule"
        )
    return lines


def _row(label: str, cells: list[str]) -> str:
    return f"  {label:40}" + "".join(f"{cell:>10}" for cell in cells)
