"""What `diagnose schedule` says: each number with what it must be, and the verdict in words."""

from __future__ import annotations

from typing import Any

from latentdiff.diffusion.noise import GAIN_LIMIT, NOISE_ONLY, TERMINAL_LIMIT

MSE = ("eps", "v", "x0", "flow")
"""Of the gallery's columns; the L1 of the others is in the JSON."""


def single(results: dict[str, Any]) -> str:
    """One schedule (as the JSON holds it) as text."""
    parts = [_head(results), _losses(results), _marks(results), _verdict(results)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def gallery(results: dict[str, Any]) -> str:
    """The gallery (as the JSON holds it) as text."""
    rows = results["schedules"]
    floors = [row["losses"]["eps"]["l1"]["variance"] for row in rows]
    lines = [
        "schedules side by side, with the losses of models that learned nothing but the variance",
        f"of the latents ({_mean(results):.3g}); each step of a chain weighs alike",
        "",
        f"{'schedule':22}{'steps':>6}{'log-SNR':>14}{'gain':>10}{'eps L1':>9}"
        + "".join(f"{name + ' MSE':>10}" for name in MSE),
        *(_row(row) for row in rows),
        "",
        "from",
        *(
            f"  {row['name']:22}{'the notebook, ' if row['notebook'] else ''}{row['source']}"
            for row in rows
        ),
        "",
        "verdict: losses on two schedules do not compare. A model that learned nothing scores "
        f"{min(floors):.3f} on one",
        f"and {max(floors):.3f} on another (eps, L1); skill is 1 - loss / that. A schedule must "
        f"end below log-SNR {TERMINAL_LIMIT:g},",
        f"because samples start from pure noise, and with a gain below {GAIN_LIMIT:g}: noise that "
        "a model leaves at",
        "the noisy end is multiplied by it, and levels beyond teach nothing.",
    ]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    losses = row["losses"]
    span = f"{row['logsnr_max']:.1f}..{row['logsnr_min']:.1f}"
    line = (
        f"{row['name']:22}{row['steps'] or '-':>6}{span:>14}{_gain(row):>10}"
        f"{losses['eps']['l1']['variance']:9.3f}"
    )
    line += "".join(f"{losses[name]['mse']['variance']:10.3f}" for name in MSE)
    return f"{line}  {_fault(row)}".rstrip()


def _fault(row: dict[str, Any]) -> str:
    if row["logsnr_min"] > TERMINAL_LIMIT:
        return f"{row['signal_left']:.0%} of the signal left at its end"
    if row["gain"] is None or row["gain"] > GAIN_LIMIT:
        return "goes on where nothing is left"
    return ""


def _gain(row: dict[str, Any]) -> str:
    return "infinite" if row["gain"] is None else f"{row['gain']:.3g}"


def _level(logsnr: float) -> str:
    # Adding 0 makes a minus zero a zero.
    return f"{round(logsnr, 1) + 0.0:.1f}"


def _mean(results: dict[str, Any]) -> float:
    variance = results["latents"]["variance"]
    return float(sum(variance) / len(variance))


def _head(r: dict[str, Any]) -> list[str]:
    kind = "continuous" if r["steps"] is None else f"a chain of {r['steps']} steps"
    tenth, half, most = (_level(r["visited"][share]) for share in ("10", "50", "90"))
    return [
        f"schedule {r['name']}, {kind}",
        "  t        " + "".join(f"{t:8.1f}" for t in r["curve"]["t"][::10]),
        "  log-SNR  " + "".join(f"{_level(level):>8}" for level in r["curve"]["logsnr"][::10]),
        f"  a tenth of the levels is cleaner than {tenth}, half than {half}, nine tenths than "
        f"{most}",
        f"  noisy end {_level(r['logsnr_min'])}, {r['signal_left']:.2g} of the signal left   "
        f"(must be {TERMINAL_LIMIT:g} or less, 0.05: samples start from pure noise)",
        f"  gain {_gain(r)}   (1 / alpha there, 1 / sqrt(abar_T) of a chain: noise that a model "
        "leaves comes out",
        f"    so many times as strong; above {GAIN_LIMIT:g} there are levels that teach nothing)",
    ]


def _losses(r: dict[str, Any]) -> list[str]:
    own = r["configured"]
    lines = [
        f"loss of a model that learned nothing, for latents of variance {_mean(r):.3g}: so much is "
        "not learning",
        f"  {'':6}{'predicting zero':>20}{'knowing the variance':>26}",
        f"  {'':6}{'L1':>11}{'MSE':>9}{'L1':>15}{'MSE':>9}",
    ]
    for name, losses in r["losses"].items():
        l1, mse = losses["l1"], losses["mse"]
        lines.append(
            f"  {name:6}{l1['zero']:11.3f}{mse['zero']:9.3f}{l1['variance']:15.3f}"
            f"{mse['variance']:9.3f}"
        )
    return [
        *lines,
        f"  as configured ({own['parametrisation']}, {own['loss']}, weighting {own['weighting']}): "
        f"{own['zero']:.3f} predicting zero, {own['variance']:.3f} knowing the variance",
    ]


def _marks(r: dict[str, Any]) -> list[str]:
    lines = ["where on this axis the latents end and the decoder stops caring"]
    found = r["posterior"]
    if found:
        lines += [
            f"  the encoder's own noise: log-SNR {_level(found['least'])} to "
            f"{_level(found['most'])} by direction, median {_level(found['median'])}; "
            f"{found['cleaner_share']:.0%} of the levels",
            "    are cleaner than all of it: detail that the encoder itself is not sure of",
        ]
    bears = r["tolerance"]
    if bears:
        lines.append(
            f"  the decoder's tolerance: log-SNR {_level(bears['logsnr'])}; "
            f"{bears['cleaner_share']:.0%} of the levels are cleaner than it hears"
        )
    if not (found or bears or r["missing"]):
        lines.append("  not known without latents: name a run with --run")
    return lines + [f"  {line}" for line in r["missing"]]


def _verdict(r: dict[str, Any]) -> list[str]:
    faults = _faults(r)
    if not faults:
        return [
            "verdict: nothing wrong: it ends in noise, and not far beyond"
            + (", and cleaner than the decoder hears" if r["tolerance"] else "")
        ]
    return ["verdict:", *(f"  {fault}" for fault in faults)]


def _faults(r: dict[str, Any]) -> list[str]:
    faults = []
    if r["logsnr_min"] > TERMINAL_LIMIT:
        faults.append(
            f"it never reaches pure noise ({r['signal_left']:.0%} of the signal is left), where "
            "samples start: raise beta_end or beta_steps, or take another schedule; `latentdiff "
            "diagnose sampler` tells what it costs"
        )
    if r["gain"] is None or r["gain"] > GAIN_LIMIT:
        beyond = r["beyond_noise"]
        faults.append(
            f"gain {_gain(r)}: {beyond:.0%} of the levels lie beyond log-SNR {NOISE_ONLY:g}, where "
            "nothing can be learned; samples start there, not later. Lower beta_end or beta_steps"
        )
    if r["tolerance"] and not r["tolerance"]["reached"]:
        faults.append(
            f"its cleanest level, log-SNR {r['logsnr_max']:.1f}, is noisier than the decoder bears "
            f"({r['tolerance']['logsnr']:.1f}): raise diffusion.schedule.logsnr_max"
        )
    return faults
