"""The text of `diagnose training`: its findings, and the measurements behind them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from latentdiff.diagnose.followed import verdict_of
from latentdiff.diagnose.training.evidence import RunEvidence
from latentdiff.diagnose.training.findings import Finding, lines_of
from latentdiff.diagnose.training.measure import ModelMeasurements
from latentdiff.diffusion import baseline
from latentdiff.diffusion.settings import ScheduleConfig
from latentdiff.training import verdict
from latentdiff.training.validation import Validation


def text(evidence: RunEvidence, findings: Sequence[Finding]) -> str:
    """Findings and tables."""
    judged = evidence.measured is not None
    parts = [lines_of(findings, judged), _unseen(evidence), _course(evidence)]
    if evidence.measured is not None:
        m = evidence.measured
        parts += [_losses(m), _data(m), _blocks(m), _samples(m)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _unseen(evidence: RunEvidence) -> list[str]:
    lines = [f"could not be examined: {what}" for what in evidence.unseen]
    return lines + [f"could not be judged: {what}" for what in evidence.doubts]


def _course(e: RunEvidence) -> list[str]:
    rows = e.curve.settled
    if not rows:
        return ["no metrics have been written yet"]
    norm = statistics.median(row.gradient_norm for row in rows)
    clip = e.settings.training.gradient_clip
    clipped = "not clipped" if clip is None else f"clipped at {clip:g}"
    worst = max(row.ratio for row in e.curve.training)
    return [
        f"the training, to step {e.curve.training[-1].step}",
        f"  highest loss {worst:.2f} times the baseline   (healthy: about 1, at the start)",
        f"  gradient norm {norm:.2g} typically, {clipped}; learning rate up to "
        f"{e.curve.peak_rate:.2g}",
    ]


def _losses(m: ModelMeasurements) -> list[str]:
    """Losses on training and held-out windows with the baseline, by noise level."""
    held = m.held_out
    held_out = "" if held is None else f"; on held-out windows {held.skill:.2f}"
    lines = [
        f"losses at step {m.model.step}",
        f"  skill {m.skill:.2f} on training windows{held_out}   (0: knows only the variance of "
        f"each direction; a linear filter: {m.learnable:.2f}) - {verdict.skill(m.skill)}",
        f"  skill below log-SNR {verdict.FORM_LOGSNR:g}, where form is decided: "
        f"{'-' if m.form_skill is None else f'{m.form_skill:.2f}'}   (healthy: above "
        f"{verdict.FORM_SKILL:g})",
        *_schedule(m),
        "  log-SNR  training  baseline   skill" + ("" if held is None else "   held-out   skill"),
    ]
    for i, level in enumerate(m.train.logsnr):
        row = f"  {level:+7.1f}  {m.train.losses[i]:8.4f}  {m.train.baselines[i]:8.4f}  "
        row += f"{_skill(m.train, i):6.2f}"
        if held is not None:
            row += f"   {held.losses[i]:8.4f}  {_skill(held, i):6.2f}"
        lines.append(row)
    return lines


def _schedule(m: ModelMeasurements) -> list[str]:
    """A note on the skill of a schedule of one's own."""
    schedule, default = m.model.spec.diffusion.schedule, ScheduleConfig()
    if schedule == default:
        return []
    return [
        f"  skill of the schedule {schedule.name}, shift {schedule.shift:g}: with another schedule "
        "it has another baseline; only single levels can be compared",
    ]


def _skill(of: Validation, level: int) -> float:
    return baseline.skill(of.losses[level], of.baselines[level])


def _data(m: ModelMeasurements) -> list[str]:
    d = m.directions
    lines = [
        "latents and conditions",
        f"  the model sees {len(d.kept_white)} of {len(d.variance)} directions, "
        f"{sum(d.kept_white)} of them white noise along time   (healthy: few)",
    ]
    for kind, found in m.exchanges.items():
        lines.append(
            f"  {kind}: gain {found.gain:.3f}, p={found.p:.2g}; the right one fits best in "
            f"{found.identified:.0%} of {found.groups} cases   (by chance {found.chance:.0%}) - "
            f"{verdict_of(found, m.fits.get(kind))}"
        )
    for kind, fit in m.fits.items():
        lines.append(
            f"  a linear regression on {kind} predicts {fit.pairing.stored:.1%} of the latents' "
            f"variance, on that of other files {fit.pairing.best_wrong:.1%}   (healthy: far less); "
            f"most at a lag of {fit.alignment.best:+.2f} s   (healthy: about 0)"
        )
    return lines


def _blocks(m: ModelMeasurements) -> list[str]:
    """Magnitudes in each block, at the middle level."""
    logsnr, found = list(m.activations.items())[len(m.activations) // 2]
    lines = [
        "magnitudes (root mean square) inside the network, on training windows",
        f"  weights {m.growth:.1f} times as large as fresh ones   (healthy: 1 to 4)",
        *(
            f"  log-SNR {level:+.1f}: the stream grows {at.growth:.1f} times, the output is "
            f"{at.output:.2f}   (healthy: 1 to 10 times, output up to 1)"
            for level, at in m.activations.items()
        ),
    ]
    if found.blocks:
        lines.append(
            f"  at {logsnr:+.1f}:{'':22} in      out   signal  condition there  gates stuck"
        )
    lines += [
        f"  {block.name:26}{block.stream_in:9.2g}{block.stream_out:9.2g}{block.signal:9.2g}"
        f"{_number(block.condition):>17}{_share(block.saturated):>13}"
        for block in found.blocks
    ]
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _samples(m: ModelMeasurements) -> list[str]:
    spread, offset = m.samples.spread, m.samples.offset
    return [
        f"{m.samples.count} samples beside as many training windows",
        f"  spread {min(spread):.2f} to {max(spread):.2f} by direction, median "
        f"{statistics.median(spread):.2f}   (1: as the latents); means off by at most "
        f"{max(map(abs, offset)):.2f} standard deviations   (0: none)",
    ]
