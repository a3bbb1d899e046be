"""The text of `diagnose schedule`: each number with its limit, and the verdict."""

from __future__ import annotations

from latentdiff.diagnose.schedule.results import (
    GalleryResults,
    GalleryRow,
    ScheduleFacts,
    ScheduleResults,
)
from latentdiff.diffusion.noise import GAIN_LIMIT, NOISE_ONLY, TERMINAL_LIMIT
from latentdiff.diffusion.settings import Parametrisation

MSE: tuple[Parametrisation, ...] = ("eps", "v", "x0", "flow")
"""Columns of the gallery."""


def single(results: ScheduleResults) -> str:
    """The text for one schedule."""
    parts = [_head(results), _losses(results), _latents(results), _verdict(results)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def gallery(results: GalleryResults) -> str:
    """The text for the gallery."""
    rows = results.schedules
    eps = [row.losses["eps"]["l1"].variance for row in rows]
    lines = [
        "noise schedules and their baselines: the loss of the best denoiser that knows only the",
        f"variance of the latents ({results.latents.mean:.3g}), averaged over all noise levels",
        "",
        f"{'schedule':22}{'steps':>6}{'log-SNR':>14}{'gain':>10}{'eps L1':>9}"
        + "".join(f"{name + ' MSE':>10}" for name in MSE),
        *(_row(row) for row in rows),
        "",
        "sources",
        *(f"  {row.name:22}{'the notebook, ' if row.notebook else ''}{row.source}" for row in rows),
        "",
        "verdict: losses cannot be compared between schedules: the baseline is "
        f"{min(eps):.3f} on one and",
        f"{max(eps):.3f} on another (eps, L1). Compare skill instead: 1 - loss / baseline.",
        f"A schedule must end below log-SNR {TERMINAL_LIMIT:g}, because sampling starts from pure "
        "noise, and with a",
        f"gain below {GAIN_LIMIT:g}: errors at the noisy end are multiplied by the gain, and "
        "noisier levels",
        "teach nothing.",
    ]
    return "\n".join(lines)


def _row(row: GalleryRow) -> str:
    span = f"{row.logsnr_max:.1f}..{row.logsnr_min:.1f}"
    line = (
        f"{row.name:22}{row.steps or '-':>6}{span:>14}{gain(row):>10}"
        f"{row.losses['eps']['l1'].variance:9.3f}"
    )
    line += "".join(f"{row.losses[name]['mse'].variance:10.3f}" for name in MSE)
    return f"{line}  {_remark(row)}".rstrip()


def _remark(row: ScheduleFacts) -> str:
    if _ends_early(row):
        return f"{row.signal_left:.0%} of the signal left at its end"
    if _gain_too_high(row):
        return "continues beyond pure noise"
    return ""


def _ends_early(r: ScheduleFacts) -> bool:
    return r.logsnr_min > TERMINAL_LIMIT


def _gain_too_high(r: ScheduleFacts) -> bool:
    return r.gain is None or r.gain > GAIN_LIMIT


def gain(r: ScheduleFacts) -> str:
    """A gain with three digits."""
    return "infinite" if r.gain is None else f"{r.gain:.3g}"


def _logsnr(value: float) -> str:
    # Adding 0 turns minus zero into zero.
    return f"{round(value, 1) + 0.0:.1f}"


def _head(r: ScheduleResults) -> list[str]:
    kind = "continuous" if r.steps is None else f"a chain of {r.steps} steps"
    tenth, half, most = (_logsnr(r.visited[share]) for share in ("10", "50", "90"))
    return [
        f"schedule {r.name}, {kind}",
        "  t        " + "".join(f"{t:8.1f}" for t in r.curve.t[::10]),
        "  log-SNR  " + "".join(f"{_logsnr(level):>8}" for level in r.curve.logsnr[::10]),
        f"  10 % of the levels are cleaner than {tenth}, 50 % than {half}, 90 % than {most}",
        f"  noisy end: log-SNR {_logsnr(r.logsnr_min)}, {r.signal_left:.2g} of the signal left   "
        f"(limit: {TERMINAL_LIMIT:g} or less, 0.05; sampling starts from pure noise)",
        f"  gain: {gain(r)}   (limit: {GAIN_LIMIT:g}; 1 / alpha at the noisy end, "
        "1 / sqrt(abar_T) of a chain.",
        "    Errors of the predicted noise there come out multiplied by it)",
    ]


def _losses(r: ScheduleResults) -> list[str]:
    own = r.configured
    lines = [
        f"baseline losses, for latents of variance {r.latents.mean:.3g}: a model that does not get "
        "below the right half has learned nothing",
        f"  {'':6}{'predicting zero':>20}{'knowing the variance':>26}",
        f"  {'':6}{'L1':>11}{'MSE':>9}{'L1':>15}{'MSE':>9}",
    ]
    for name, losses in r.losses.items():
        l1, mse = losses["l1"], losses["mse"]
        lines.append(
            f"  {name:6}{l1.zero:11.3f}{mse.zero:9.3f}{l1.variance:15.3f}{mse.variance:9.3f}"
        )
    return [
        *lines,
        f"  as configured ({own.parametrisation}, {own.loss}, weighting {own.weighting}): "
        f"{own.zero:.3f} predicting zero, {own.variance:.3f} knowing the variance",
    ]


def _latents(r: ScheduleResults) -> list[str]:
    lines = ["noise of the encoder and noise tolerance of the decoder, on the same axis"]
    encoder, decoder = r.posterior, r.tolerance
    if encoder:
        lines += [
            f"  encoder: its own noise lies at log-SNR {_logsnr(encoder.least)} to "
            f"{_logsnr(encoder.most)}, depending on the direction (median "
            f"{_logsnr(encoder.median)});",
            f"    {encoder.cleaner_share:.0%} of the levels are cleaner than all of it",
        ]
    if decoder:
        lines.append(
            f"  decoder: it tolerates noise at log-SNR {_logsnr(decoder.logsnr)} and above; "
            f"{decoder.cleaner_share:.0%} of the levels are cleaner than that"
        )
    if not (encoder or decoder or r.missing):
        lines.append("  unknown without latents: give a run with --run")
    return lines + [f"  {line}" for line in r.missing]


def _verdict(r: ScheduleResults) -> list[str]:
    faults = _faults(r)
    if not faults:
        return [
            "verdict: nothing wrong: it ends in pure noise, and not far beyond"
            + ("; its clean end is cleaner than the decoder needs" if r.tolerance else "")
        ]
    return ["verdict:", *(f"  {fault}" for fault in faults)]


def _faults(r: ScheduleResults) -> list[str]:
    faults = []
    if _ends_early(r):
        faults.append(
            f"it never reaches pure noise ({r.signal_left:.0%} of the signal is left), where "
            f"sampling starts: {_advice(r, 'raise beta_end or beta_steps', 'lower logsnr_min')}. "
            "`latentdiff diagnose sampler` measures the damage"
        )
    if _gain_too_high(r):
        faults.append(
            f"gain {gain(r)}: {r.beyond_noise:.0%} of the levels lie beyond log-SNR "
            f"{NOISE_ONLY:g}, where there is nothing to learn and where sampling never goes: "
            + _advice(r, "lower beta_end or beta_steps", "raise logsnr_min")
        )
    if r.tolerance and not r.tolerance.reached:
        faults.append(
            f"its clean end, log-SNR {r.logsnr_max:.1f}, is noisier than the decoder tolerates "
            f"({r.tolerance.logsnr:.1f}): {_advice(r, 'lower beta_start', 'raise logsnr_max')}"
        )
    return faults


def _advice(r: ScheduleFacts, own_chain: str, continuous: str) -> str:
    """Settings of `diffusion.schedule` that this schedule reads: a paper's chain reads none."""
    if r.steps is None:
        return f"{continuous} (diffusion.schedule)"
    if r.name.startswith("betas "):
        return f"{own_chain} (diffusion.schedule)"
    return "choose another diffusion.schedule.name"
