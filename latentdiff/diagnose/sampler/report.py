"""The text of `diagnose sampler`: every error with its limit, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latentdiff.diagnose.sampler.results import (
    ConversionRow,
    ErrorName,
    OrderRow,
    SamplerResults,
    StepsRow,
)
from latentdiff.diffusion.noise import GAIN_LIMIT, NOISE_ONLY
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation.oracle import OUTPUTS, STEPS

CONVERTED = 1e-3
"""Deviation above which the conversion of a network's output is broken. Single precision explains
1e-4."""

LEFT = 0.05
"""Share of the signal at the schedule's noisy end above which the report mentions it."""

COARSE = 0.1
"""Error of the end points above which the report asks for more steps."""

UNEVEN = 3.0
"""Ratio of errors above which the report names the spacing."""

NOTHING = 1e-6
"""Errors below are not listed."""

TITLES = {"Gaussian": "Gaussian", "mixture": "mixture of two"}
ERRORS: dict[ErrorName, str] = {
    "end": "end points (of samplers that add no fresh noise)",
    "covariance": "covariance",
    "mean": "mean",
}


def text(results: SamplerResults) -> str:
    """The whole report."""
    parts = [
        _head(results),
        _errors(results, "Gaussian"),
        _errors(results, "mixture"),
        _conversions(results.conversions),
        _starts(results),
        _verdict(results),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def broken(orders: Sequence[OrderRow], conversions: Sequence[ConversionRow]) -> list[str]:
    """Faults of samplers and of conversions between outputs; empty if there are none."""
    wrong = [
        f"{row}: its error falls with order {row.order:.2f} instead of {row.expected}"
        for row in orders
        if not row.kept
    ]
    return wrong + [
        f"{row}, {row.steps} steps: a network that predicts {row.output} changes the samples by "
        f"{row.deviation:.2g}; single precision explains at most {CONVERTED:g}"
        for row in conversions
        # Not `>`: NaN is broken, too.
        if not row.deviation <= CONVERTED
    ]


def _head(r: SamplerResults) -> list[str]:
    start = r.starts[0]
    return [
        "every sampler with a perfect model, on latents of 8 correlated values with a known exact",
        "solution. Errors: 0 is perfect integration, 1 as far off as always answering the mean;",
        "they must fall with more steps",
        f"schedule {r.schedule}: log-SNR {start.first:.1f} to {start.last:.1f}, steps spaced by "
        f"{r.spacing}" + ("" if r.spacing == "t" else " (which uses only these two ends)"),
    ]


def _errors(r: SamplerResults, latents: str) -> list[str]:
    """Errors on the configured schedule: a line for each sampler and kind of error, by steps."""
    here = (r.schedule, latents)
    rows = [row for row in r.errors if (row.schedule, row.latents) == here]
    orders = {
        row.sampler: f"{row.order:.2f} ({row.expected})"
        for row in r.orders
        if (row.schedule, row.latents) == here
    }
    lines = [f"{TITLES[latents]:16}" + "".join(f"{n:>8}" for n in STEPS) + "  order (expected)"]
    for kind, title in ERRORS.items():
        lines += _of_kind(kind, title, rows, orders)
    if latents == "mixture":
        lines.append(
            "  with fresh noise, chance alone leaves an error of the covariance of "
            f"{r.chance:.2g} with this number of samples"
        )
    return lines


def _of_kind(
    kind: ErrorName, title: str, rows: Sequence[StepsRow], orders: dict[str, str]
) -> list[str]:
    by_sampler: dict[str, list[float]] = {}
    judged_by = {row.sampler: "covariance" if row.end is None else "end" for row in rows}
    for row in rows:
        error = row.error(kind)
        if error is not None:
            by_sampler.setdefault(row.sampler, []).append(error)
    if max(max(errors) for errors in by_sampler.values()) < NOTHING:
        return [f"  {title}: below {NOTHING:g} everywhere"]
    lines = [f"  {title}"]
    for name, errors in by_sampler.items():
        cells = "".join(f"{error:8.2g}" for error in errors)
        order = orders.get(name, "by chance") if judged_by[name] == kind else ""
        lines.append(f"    {name:12}{cells}  {order}".rstrip())
    return lines


def _conversions(rows: Sequence[ConversionRow]) -> list[str]:
    """One line for each schedule: the worst over samplers, steps and latents for each output."""
    worst: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row.schedule, row.output)
        worst[key] = max(worst.get(key, 0.0), row.deviation)
    lines = [
        "the network's output, converted in single precision: how much it changes the samples, at",
        f"worst (must stay below {CONVERTED:g}; eps grows with the gain, because its rounding is "
        "divided by alpha",
        "at the noisy end)",
        f"  {'schedule':26}" + "".join(f"{output:>15}" for output in OUTPUTS),
    ]
    return lines + [
        f"  {name:26}" + "".join(f"{worst[name, output]:15.1e}" for output in OUTPUTS)
        for name in dict.fromkeys(schedule for schedule, _ in worst)
    ]


def _starts(r: SamplerResults) -> list[str]:
    lines = [
        "what even perfect integration gets wrong (all must be near 0): sampling starts from pure",
        "noise, but a schedule may end before it",
        f"  {'':26}{'noisy':>7}{'':>10}{'from its true end':>22}{'from pure noise':>30}",
        f"  {'schedule':26}{'end':>7}{'gain':>10}{'mean':>10}{'covariance':>12}"
        f"{'mean':>10}{'covariance':>12}{'level':>9}",
    ]
    for row in r.starts:
        # Adding 0 turns minus zero into zero.
        level = round(row.noise_level_db, 1) + 0.0
        lines.append(
            f"  {row.schedule:26}{row.first:7.1f}{row.gain:10.3g}{row.true.mean:10.4f}"
            f"{row.true.covariance:12.4f}{row.noise.mean:10.3f}{row.noise.covariance:12.3f}"
            f"{level:+6.1f} dB"
        )
    if any(row.gain > GAIN_LIMIT for row in r.starts):
        lines.append(
            f"  gains above {GAIN_LIMIT:g} never apply: sampling starts at log-SNR "
            f"{NOISE_ONLY:g} at most, gain {math.exp(-NOISE_ONLY / 2):.0f}"
        )
    return lines


def _verdict(r: SamplerResults) -> list[str]:
    if r.broken:
        return ["verdict: THE SAMPLING IS BROKEN", *(f"  {line}" for line in r.broken)]
    own, advice = r.configured, _advice(r)
    if advice:
        judgement = ". To improve that:"
    elif own.judged <= COARSE:
        judgement = ": fine."
    else:
        judgement = f". Up to {STEPS[-1]} steps do not improve that."
    return [
        "verdict: is it the training or the sampling? The samplers work: with a perfect model",
        f"all {len(r.orders)} orders of convergence are met, and every network output is converted "
        "correctly.",
        f"As configured ({own.sampler}, {own.steps} steps by {r.spacing}) perfect samples are off "
        f"by {own.judged:.2g}{judgement}",
        *(f"  {line}" for line in advice),
        f"{'Whatever else' if advice else 'Whatever'} is wrong with samples comes from the model: "
        "`latentdiff diagnose training`.",
    ]


def _advice(r: SamplerResults) -> list[str]:
    """Settings that would lower the error of the configured sampler; only those that would."""
    own, default = r.configured, SamplingConfig().spacing
    lines = []
    if own.enough_steps is not None:
        lines.append(
            f"sampling.steps={own.steps} is too few for {own.sampler} here: {own.enough_steps} "
            f"steps bring the error below {COARSE:g}"
        )
    # The default is chosen for models of music, which are not perfect: it is not to blame here.
    usual = own.judged if own.judged_by_default is None else own.judged_by_default
    if r.spacing != default and own.judged > max(UNEVEN * usual, COARSE / 10):
        lines.append(f"sampling.spacing={r.spacing}: off by only {usual:.2g} with {default}")
    start = r.starts[0]
    if start.signal_left > LEFT:
        lines.append(
            f"diffusion.schedule: {start.signal_left:.0%} of the signal is left at its noisy end, "
            f"but sampling starts from pure noise: level {start.noise_level_db:+.1f} dB, "
            f"covariance off by {start.noise.covariance:.0%}. `latentdiff diagnose schedule` says "
            "what to change"
        )
    return lines
