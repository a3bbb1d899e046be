"""The text of `diagnose latents`: every number with what it must be compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from latentdiff.evaluation.profile import NORMAL_WITHIN
from latentdiff.latents.statistics import LEAST_BITS

SHOWN = 3
"""Directions shown beyond those that carry sound or are kept."""
MOST = 20
"""Of the first ones that are shown; the JSON file holds them all."""


def text(r: dict[str, Any]) -> str:
    """The results (as the JSON file holds them) as table and verdict."""
    parts = [_head(r), _verdict(r), _directions(r), _drawn(r), _extents(r), _losses(r)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(r: dict[str, Any]) -> list[str]:
    seconds = r["frame_seconds"]
    length = "" if seconds is None else f" = {r['frames'] * seconds / 60:.1f} minutes"
    return [
        f"{r['latents']}: {r['files']} training files, {r['frames']} frames{length}, "
        f"{r['dimensions']} dimensions"
    ]


def _verdict(r: dict[str, Any]) -> list[str]:
    return [*(_known(r) if r["posterior_known"] else _unknown(r)), *_keeps(r)]


def _known(r: dict[str, Any]) -> list[str]:
    rate = r["frame_seconds"]
    a_second = "" if rate is None else f", {r['bits'] / rate:.0f} a second"
    rest = r["dimensions"] - r["carrying"]
    return [
        f"{r['carrying']} of {r['dimensions']} dimensions carry sound: along each of these the "
        f"encoder sends more than {LEAST_BITS} bit a frame ({r['bits']:.1f} in all{a_second}).",
        f"The other {rest} are the encoder's own noise.",
        *([] if r["carrying"] else ["Train the codec longer, or with a smaller beta."]),
    ]


def _unknown(r: dict[str, Any]) -> list[str]:
    noise, dimensions = r["noise"], r["dimensions"]
    lines = [
        f"{dimensions - noise} of {dimensions} dimensions carry sound at most: the encoder's own "
        f"noise is not known, but {noise} directions look like nothing else (white along time and "
        "normal; of a codec's means hardly any do)."
    ]
    if 2 * noise > dimensions:
        lines.append(
            "These latents look like draws from the encoder's posterior. Encode again with "
            "`latentdiff encode`, which stores the means."
        )
    return lines


def _keeps(r: dict[str, Any]) -> list[str]:
    if r["trouble"]:
        return [f"latents.keep={r['keep']} cannot be met: {r['trouble']}."]
    share = sum(r["directions"][k]["variance"] for k in r["kept"])
    total = max(sum(row["variance"] for row in r["directions"]), 1e-300)
    return [
        f"latents.keep={r['keep']}: a diffusion model sees {len(r['kept'])}, which hold "
        f"{100 * share / total:.3g} % of the variance."
    ]


def _directions(r: dict[str, Any]) -> list[str]:
    rows, columns = r["directions"], _columns(r)
    last = max([r["carrying"], *(k + 1 for k in r["kept"])]) + SHOWN
    shown = [*range(min(last, MOST, len(rows))), len(rows) - 1]
    lines = ["along principal directions", *(_line([c.heads[i] for c in columns]) for i in (0, 1))]
    for k in dict.fromkeys(shown):
        if k == len(rows) - 1 > len(shown) - 1:
            lines.append("  ...")
        lines.append(_line([column.cell(k, rows[k]) for column in columns]))
    lines.append(
        f"  (white noise: lag 1 0.00, kurtosis 0.0, {NORMAL_WITHIN:.2f} within 1 std; memory: "
        "until the autocorrelation falls below 1/e)"
    )
    return lines


class _Column(NamedTuple):
    """Its two lines of heading, and what stands in it for direction k."""

    heads: tuple[str, str]
    cell: Callable[[int, dict[str, Any]], str]


def _columns(r: dict[str, Any]) -> list[_Column]:
    frame = r["frame_seconds"]
    unit, scale = ("frames", 1.0) if frame is None else ("ms", 1000 * frame)
    known = r["posterior_known"]
    everything = [
        (True, "", "direction", lambda k, x: str(k + 1)),
        (True, "variance", "as stored", lambda k, x: f"{x['variance']:.3g}"),
        (known, "posterior", "itself", lambda k, x: f"{x['posterior']:.3g}"),
        (known, "bits", "a frame", lambda k, x: f"{x['bits']:.2f}"),
        (True, "variance", "up to it", lambda k, x: f"{x['fidelity']:.1%}"),
        (True, "", "kept", lambda k, x: "yes" if k in r["kept"] else "-"),
        (True, "autocorr.", "lag 1", lambda k, x: f"{x['lag_1']:.2f}"),
        (True, "memory", unit, lambda k, x: f"{scale * x['correlation_time']:.3g}"),
        (True, "excess", "kurtosis", lambda k, x: f"{x['kurtosis']:.1f}"),
        (True, "within", "1 std", lambda k, x: f"{x['within_1_std']:.2f}"),
        (known, "if drawn:", "variance", lambda k, x: f"{x['drawn_variance']:.3g}"),
        (known, "", "lag 1", lambda k, x: f"{x['drawn_lag_1']:.2f}"),
        (known, "", "kurtosis", lambda k, x: f"{x['drawn_kurtosis']:.1f}"),
    ]
    return [_Column((above, below), cell) for there, above, below, cell in everything if there]


def _line(cells: list[str]) -> str:
    return "".join(f"{cell:>10}" for cell in cells).rstrip()


def _drawn(r: dict[str, Any]) -> list[str]:
    if r["noise_if_drawn"] is None:
        return []
    return [
        f"drawn from the posterior instead of its mean, {r['noise_if_drawn']} of {r['dimensions']} "
        f"directions would be white along time and normal (as stored: {r['noise']}).",
        "Latents that look perfectly normal are no comfort: it is the noise that was drawn.",
    ]


def _extents(r: dict[str, Any]) -> list[str]:
    names = {"raw": "raw latents", "final": f"those that a model sees ({len(r['kept'])})"}
    cells = ("min", "max", "mean", "std", "> +-1", "of frames", "> 4 std", "of frames")
    lines = [f"{'reach of all values':32}" + _line(list(cells))]
    for key, found in r["extent"].items():
        numbers = [f"{found[name]:.2f}" for name in ("minimum", "maximum", "mean", "std")]
        for cut in (found["beyond_unit"], found["beyond_far"]):
            numbers += [f"{cut['values']:.2%}", f"{cut['frames']:.1%}"]
        lines.append(f"  {names[key]:30}" + _line(numbers))
    reach = r["extent"]["raw"]["noise_reaches"]
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
        "  > +-1: what a clamp to -1..1, made for sound, would destroy; of frames: share in "
        "which it hits a value",
    ]
    return lines


def _losses(r: dict[str, Any]) -> list[str]:
    loss, dimensions = r["loss"], r["dimensions"]
    what = "latents drawn from the posterior" if loss["of_draws"] else "these latents"
    rows = loss["objectives"]
    lines = [
        f"losses on {what}, all {dimensions} directions scaled to variance 1, schedule "
        f"{loss['schedule']}",
        " " * 42 + "".join(f"{name:>10}" for name in rows),
    ]
    for key, label in (
        ("zero", "predicts zero"),
        ("variance", "knows variances only (skill 0)"),
        ("floor", "knows everything but the noise"),
    ):
        lines.append(f"  {label:40}" + "".join(f"{row[key]:10.3f}" for row in rows.values()))
    share = "".join(f"{row['unlearnable']:10.0%}" for row in rows.values())
    lines.append(f"  {'of skill 0, what nothing can learn':40}{share}")
    low, high = loss["one_output"]["l1"]
    lines.append(
        f"  a network with one output channel for all {dimensions}: eps l1 {low:.3f} to {high:.3f} "
        "on any schedule, whatever it knows"
    )
    return lines
