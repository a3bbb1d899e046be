"""What `diagnose sampler` says: every error beside what it must be, and the verdict in words."""

from __future__ import annotations

import math
from typing import Any

from latentdiff.diffusion.noise import GAIN_LIMIT, NOISE_ONLY
from latentdiff.evaluation.oracle import OUTPUTS, STEPS

CONVERTED = 1e-3
"""Deviation of samples by a network's output from those by the exact denoiser above which the
conversion is broken. Single precision explains 1e-4."""

LEFT = 0.05
"""Share of the signal that a schedule may leave at its noisy end unmentioned."""

COARSE = 0.1
"""Share of the latents' deviation by which end points may be off unmentioned."""

UNEVEN = 3.0
"""Times that errors may grow by a spacing unmentioned."""

NOTHING = 1e-6
"""Errors below are not shown one by one."""

TITLES = {"Gaussian": "Gaussian", "mixture": "two heaps"}
ERRORS = {
    "end": "end points (of samplers that draw no fresh noise)",
    "covariance": "covariance",
    "mean": "mean",
}


def table(results: dict[str, Any]) -> str:
    """The results of the diagnosis (as its JSON holds them) as text."""
    parts = [
        _head(results),
        _errors(results, "Gaussian"),
        _errors(results, "mixture"),
        _conversions(results),
        _starts(results),
        _verdict(results),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def broken(results: dict[str, Any]) -> list[str]:
    """What is wrong with samplers and conversions, in words; empty where nothing is."""
    orders = [
        f"{_place(row)}: its error falls with order {row['order']:.2f} and must with "
        f"{row['expected']}"
        for row in results["orders"]
        if not row["kept"]
    ]
    return orders + [
        f"{_place(row)}, {row['steps']} steps: a network that puts out {row['output']} leads "
        f"{row['deviation']:.2g} away; single precision explains no more than {CONVERTED:g}"
        for row in results["conversions"]
        # Not `>`: what is no number is broken, too.
        if not row["deviation"] <= CONVERTED
    ]


def _place(row: dict[str, Any]) -> str:
    return f"{row['sampler']} on schedule {row['schedule']}, {row['latents']}"


def _head(results: dict[str, Any]) -> list[str]:
    start = results["starts"][0]
    return [
        "samplers with a perfect model, on 8 correlated values of which all is known, from their",
        "noisy end to the clean one: how far they are off (1: as far as always answering the mean;",
        "0: perfect integration; must fall with more steps)",
        f"schedule {results['schedule']}: log-SNR {start['first']:.1f} to {start['last']:.1f}, "
        f"steps spaced by {results['spacing']}"
        + ("" if results["spacing"] == "t" else " (to which only its two ends matter)"),
    ]


def _errors(results: dict[str, Any], latents: str) -> list[str]:
    """On the configured schedule: a line a sampler and kind of error, by steps."""
    rows, orders = (
        [r for r in results[key] if (r["schedule"], r["latents"]) == (results["schedule"], latents)]
        for key in ("errors", "orders")
    )
    texts = {row["sampler"]: f"{row['order']:.2f} ({row['expected']})" for row in orders}
    lines = [f"{TITLES[latents]:16}" + "".join(f"{n:>8}" for n in STEPS) + "  order (must be)"]
    for key, title in ERRORS.items():
        lines += _of_kind(key, title, [row for row in rows if row[key] is not None], texts)
    if latents == "mixture":
        lines.append(
            "  fresh noise alone leaves the covariance of so many samples off by "
            f"{results['chance']:.2g}, by chance"
        )
    return lines


def _of_kind(key: str, title: str, rows: list[dict[str, Any]], orders: dict[str, str]) -> list[str]:
    if max(row[key] for row in rows) < NOTHING:
        return [f"  {title}: below {NOTHING:g} everywhere"]
    lines = [f"  {title}"]
    for name in dict.fromkeys(row["sampler"] for row in rows):
        mine = [row for row in rows if row["sampler"] == name]
        judged = key == ("covariance" if mine[0]["end"] is None else "end")
        cells = "".join(f"{row[key]:8.2g}" for row in mine)
        order = orders.get(name, "by chance") if judged else ""
        lines.append(f"    {name:12}{cells}  {order}".rstrip())
    return lines


def _conversions(results: dict[str, Any]) -> list[str]:
    """A line a schedule: the worst over samplers, steps and latents for each output."""
    worst: dict[tuple[str, str], float] = {}
    for row in results["conversions"]:
        key = (row["schedule"], row["output"])
        worst[key] = max(worst.get(key, 0.0), row["deviation"])
    lines = [
        "what a network puts out, converted, in single precision: the farthest that it leads any",
        f"sampler away (must stay below {CONVERTED:g}; eps grows with the gain, because its "
        "rounding is divided",
        "by alpha at the noisy end)",
        f"  {'schedule':26}" + "".join(f"{output:>15}" for output in OUTPUTS),
    ]
    return lines + [
        f"  {name:26}" + "".join(f"{worst[name, output]:15.1e}" for output in OUTPUTS)
        for name in dict.fromkeys(schedule for schedule, _ in worst)
    ]


def _starts(results: dict[str, Any]) -> list[str]:
    lines = [
        "what perfect integration leaves wrong (all must be near 0): `sample` starts from pure",
        "noise, and a schedule may end before it",
        f"  {'':26}{'noisy':>7}{'':>10}{'from its true end':>22}{'from pure noise':>30}",
        f"  {'schedule':26}{'end':>7}{'gain':>10}{'mean':>10}{'covariance':>12}"
        f"{'mean':>10}{'covariance':>12}{'level':>9}",
    ]
    for row in results["starts"]:
        true, noise = row["true"], row["noise"]
        # Adding 0 makes a minus zero a zero.
        level = round(row["noise_level_db"], 1) + 0.0
        lines.append(
            f"  {row['schedule']:26}{row['first']:7.1f}{row['gain']:10.3g}{true['mean']:10.4f}"
            f"{true['covariance']:12.4f}{noise['mean']:10.3f}{noise['covariance']:12.3f}"
            f"{level:+6.1f} dB"
        )
    if any(row["gain"] > GAIN_LIMIT for row in results["starts"]):
        lines.append(
            f"  a gain beyond {GAIN_LIMIT:g} is not met here: samples start at log-SNR "
            f"{NOISE_ONLY:g} at most, gain {math.exp(-NOISE_ONLY / 2):.0f}"
        )
    return lines


def _verdict(results: dict[str, Any]) -> list[str]:
    if results["broken"]:
        return ["verdict: THE SAMPLING IS BROKEN", *(f"  {line}" for line in results["broken"])]
    own, costs = results["configured"], _costs(results)
    return [
        "verdict: is it the training or the sampling? The samplers are right: with a perfect model",
        f"all {len(results['orders'])} orders of convergence are met, and all that a network may "
        "put out is converted rightly.",
        f"As configured ({own['sampler']}, {own['steps']} steps by {results['spacing']}) perfect "
        f"samples are off by {own['judged']:.2g}" + (". What does harm:" if costs else ": fine."),
        *(f"  {line}" for line in costs),
        f"{'What else' if costs else 'So what'} is wrong with samples comes from what the model "
        "learned: `latentdiff diagnose training`.",
    ]


def _costs(results: dict[str, Any]) -> list[str]:
    """What the configured sampler, spacing and schedule cost, where that is much."""
    own = results["configured"]
    lines = []
    if own["judged"] > COARSE:
        lines.append(f"sampling.steps={own['steps']}: too few for {own['sampler']}, see above")
    if own["judged"] > max(UNEVEN * own["judged_by_logsnr"], COARSE / 10):
        lines.append(
            f"sampling.spacing={results['spacing']}: by logsnr off by {own['judged_by_logsnr']:.2g}"
            " only; the schedule is steep where these steps are few"
        )
    start = results["starts"][0]
    if start["signal_left"] > LEFT:
        lines.append(
            f"diffusion.schedule: {start['signal_left']:.0%} of the signal is left where it ends, "
            f"but samples start from pure noise: level {start['noise_level_db']:+.1f} dB, "
            f"covariance off by {start['noise']['covariance']:.0%}"
        )
    return lines
