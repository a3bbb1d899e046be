"""What `diagnose training` says: its findings, and the numbers that they were looked for in."""

from __future__ import annotations

import statistics
from typing import Any

from latentdiff.diagnose.training import findings
from latentdiff.diagnose.training.evidence import Evidence
from latentdiff.diagnose.training.findings import Finding
from latentdiff.diagnose.training.measure import Measured
from latentdiff.diffusion import baseline
from latentdiff.training import verdict
from latentdiff.training.validation import Validation


def table(evidence: Evidence, found: list[Finding]) -> str:
    """All of it as text."""
    parts = [findings.table(found), _unseen(evidence), _course(evidence)]
    if evidence.measured is not None:
        m = evidence.measured
        parts += [_losses(m), _data(m), _blocks(m), _samples(m)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def facts(evidence: Evidence, found: list[Finding]) -> dict[str, Any]:
    """All of it for the JSON file."""
    m = evidence.measured
    return {
        "findings": [finding.facts() for finding in found],
        "unseen": evidence.unseen,
        "measured": None if m is None else _measured(m),
    }


def _measured(m: Measured) -> dict[str, Any]:
    pairs = m.pairing
    return {
        "checkpoint": str(m.model.path),
        "step": m.model.step,
        "training": m.train.metrics(),
        "held_out": None if m.held_out is None else m.held_out.metrics(),
        "learnable": m.learnable,
        "weights_grown": m.growth,
        "pairing": None
        if pairs is None
        else {"stored": pairs.stored, "displaced": pairs.displaced},
        "samples": {"spread": m.samples.spread, "offset": m.samples.offset},
        "blocks": {
            f"{logsnr:+.1f}": [vars(block) for block in at.blocks]
            for logsnr, at in m.activations.items()
        },
    }


def _unseen(evidence: Evidence) -> list[str]:
    return [f"could not be looked at: {what}" for what in evidence.unseen]


def _course(e: Evidence) -> list[str]:
    lines = e.curve.settled
    if not lines:
        return ["no line of metrics was written yet"]
    norm = statistics.median(line.gradient_norm for line in lines)
    limit = "none" if e.clip is None else f"{e.clip:g}"
    worst = max(line.ratio for line in e.curve.lines)
    return [
        f"the course, to step {e.curve.lines[-1].step}",
        f"  worst line: loss {worst:.2f} times the baseline   (sound: about 1, at the start)",
        f"  gradient norm {norm:.2g} typically, clipped at {limit}; learning rate up to "
        f"{max(line.learning_rate for line in e.curve.lines):.2g}",
    ]


def _losses(m: Measured) -> list[str]:
    """Both files' losses beside the baseline, level by level."""
    held = m.held_out
    unseen = "" if held is None else f"; on held-out windows {held.skill:.2f}"
    lines = [
        f"losses of step {m.model.step}",
        f"  skill {m.skill:.2f} on training windows{unseen}   (0: knows only how strong each "
        f"direction is; a mere filter: {m.learnable:.2f}) - {verdict.skill(m.skill)}",
        "  log-SNR  training  baseline   skill" + ("" if held is None else "   held-out   skill"),
    ]
    for i, level in enumerate(m.train.logsnr):
        row = f"  {level:+7.1f}  {m.train.losses[i]:8.4f}  {m.train.baselines[i]:8.4f}  "
        row += f"{_skill(m.train, i):6.2f}"
        if held is not None:
            row += f"   {held.losses[i]:8.4f}  {_skill(held, i):6.2f}"
        lines.append(row)
    return lines


def _skill(of: Validation, level: int) -> float:
    return baseline.skill(of.losses[level], of.baselines[level])


def _data(m: Measured) -> list[str]:
    d = m.directions
    lines = [
        "latents and conditions",
        f"  {len(d.kept_white)} of {len(d.variance)} directions are seen, {sum(d.kept_white)} of "
        "them white noise along time   (sound: few)",
    ]
    if m.gains:
        gains = " and ".join(f"{gain:.2f}" for gain in m.gains)
        lines.append(
            f"  conditioning gain {gains} on training and held-out files   (0: ignored) - "
            f"{verdict.conditioning(m.gains[-1])}"
        )
    if m.pairing is not None:
        lines.append(
            f"  conditions predict {m.pairing.stored:.1%} of the latents' variance in straight "
            f"lines, moved elsewhere {m.pairing.best_displaced:.1%}   (right pairs: well above)"
        )
    return lines


def _blocks(m: Measured) -> list[str]:
    """Magnitudes in each block, at the middle level."""
    logsnr, found = list(m.activations.items())[len(m.activations) // 2]
    lines = [
        "magnitudes (root mean square) inside the network on training windows",
        f"  weights {m.growth:.1f} times as large as fresh ones   (sound: 1 to 4)",
        *(
            f"  log-SNR {level:+.1f}: the stream grows {at.growth:.1f} times, the output is "
            f"{at.output:.2f}   (sound: 1 to 10 times, output up to 1)"
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


def _samples(m: Measured) -> list[str]:
    spread, offset = m.samples.spread, m.samples.offset
    return [
        f"{m.samples.count} samples beside as many training windows",
        f"  spread {min(spread):.2f} to {max(spread):.2f} by direction, median "
        f"{statistics.median(spread):.2f}   (1: as the latents); means off by at most "
        f"{max(map(abs, offset)):.2f} deviations   (0: none)",
    ]
