"""Pictures of `diagnose schedule`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentdiff.diffusion.noise import TERMINAL_LIMIT
from latentdiff.evaluation import canvas

COLUMNS = 5
RANGE = (-22, 15)
"""log-SNR that is shown; chains may go on below."""


def single(path: Path, facts: dict[str, Any]) -> None:
    """log-SNR over t with the marks of a run, and the losses of models that learned nothing."""
    figure = canvas.figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    left.plot(facts["curve"]["t"], facts["curve"]["logsnr"], linewidth=2)
    left.axhspan(RANGE[0], TERMINAL_LIMIT, color="0.92", label="pure noise (5 % of the signal)")
    if facts["posterior"]:
        found = facts["posterior"]
        left.axhspan(found["least"], found["most"], alpha=0.25, label="the encoder's own noise")
    if facts["tolerance"]:
        label = "the decoder bears more only above"
        left.axhline(facts["tolerance"]["logsnr"], color="C3", linestyle="--", label=label)
    left.set(xlabel="t (clean to noisy)", ylabel="log-SNR", ylim=RANGE)
    left.set_title(_title(facts), fontsize="medium")
    left.legend(fontsize="small", loc="lower left")
    _bars(right, facts["losses"])
    canvas.save(figure, path)


def gallery(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A panel a schedule, all others in grey behind it; names of faulty ones in red."""
    lines = -(-len(rows) // COLUMNS)
    figure = canvas.figure(3.2 * COLUMNS, 2.7 * lines)
    grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, rows, strict=False):
        for other in rows:
            axes.plot(other["curve"]["t"], other["curve"]["logsnr"], color="0.88", linewidth=0.8)
        axes.axhline(TERMINAL_LIMIT, color="0.6", linestyle=":", linewidth=1)
        colour = "C1" if row["notebook"] else "C0"
        axes.plot(row["curve"]["t"], row["curve"]["logsnr"], color=colour, linewidth=2)
        axes.set_ylim(RANGE)
        axes.set_title(row["name"], fontsize="medium", color="C3" if row["warnings"] else "black")
        axes.text(0.04, 0.05, _label(row), transform=axes.transAxes, fontsize="small")
    figure.supxlabel("t (clean to noisy)")
    figure.supylabel("log-SNR (dotted: 5 % of the signal left)")
    canvas.save(figure, path)


def _bars(axes: Any, losses: dict[str, Any]) -> None:
    """Four bars for each parametrisation."""
    bars = {
        f"{kind.upper()}, {knows}": [losses[name][kind][key] for name in losses]
        for kind in ("l1", "mse")
        for key, knows in (("zero", "predicting zero"), ("variance", "knowing the variance"))
    }
    for k, (label, heights) in enumerate(bars.items()):
        drawn = axes.bar(
            [i + 0.2 * (k - 1.5) for i in range(len(losses))], heights, 0.19, label=label
        )
        axes.bar_label(drawn, fmt="%.2f", fontsize="x-small")
    axes.set_xticks(range(len(losses)), list(losses))
    axes.set_title("loss of a model that learned nothing", fontsize="medium")
    axes.legend(fontsize="small")


def _title(facts: dict[str, Any]) -> str:
    return f"{facts['name']}: {_label(facts).splitlines()[0]}"


def _label(facts: dict[str, Any]) -> str:
    gain = "infinite" if facts["gain"] is None else f"{facts['gain']:.3g}"
    eps = facts["losses"]["eps"]
    return (
        f"gain {gain}\neps learned nothing:\n"
        f"L1 {eps['l1']['variance']:.3f}, MSE {eps['mse']['variance']:.3f}"
    )
