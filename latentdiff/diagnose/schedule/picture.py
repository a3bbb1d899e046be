"""The pictures of `diagnose schedule`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latentdiff.diagnose.schedule.report import gain
from latentdiff.diagnose.schedule.results import (
    BaselineLosses,
    GalleryRow,
    ScheduleFacts,
    ScheduleResults,
)
from latentdiff.diffusion.noise import TERMINAL_LIMIT
from latentdiff.diffusion.settings import LossKind, Parametrisation
from latentdiff.evaluation import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 5
RANGE = (-22, 15)
"""Log-SNR shown; chains may continue below."""
LEARNED_NOTHING: tuple[tuple[Literal["zero", "variance"], str], ...] = (
    ("zero", "predicting zero"),
    ("variance", "knowing the variance"),
)


def single(path: Path, r: ScheduleResults) -> None:
    """Log-SNR over t, the encoder's noise and decoder's tolerance, and losses at skill 0."""
    figure = canvas.figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    left.plot(r.curve.t, r.curve.logsnr, linewidth=2)
    left.axhspan(RANGE[0], TERMINAL_LIMIT, color="0.92", label="pure noise (5 % of the signal)")
    if r.posterior:
        label = "the encoder's own noise"
        left.axhspan(r.posterior.least, r.posterior.most, alpha=0.25, label=label)
    if r.tolerance:
        label = "decoder noise tolerance"
        left.axhline(r.tolerance.logsnr, color="C3", linestyle="--", label=label)
    left.set(xlabel="t (clean to noisy)", ylabel="log-SNR", ylim=RANGE)
    left.set_title(f"{r.name}: gain {gain(r)}", fontsize="medium")
    left.legend(fontsize="small", loc="lower left")
    _bars(right, r.losses)
    canvas.save(figure, path)


def gallery(path: Path, rows: Sequence[GalleryRow]) -> None:
    """One panel a schedule, the others in grey behind it; names of faulty ones in red."""
    lines = -(-len(rows) // COLUMNS)
    figure = canvas.figure(3.2 * COLUMNS, 2.7 * lines)
    grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, rows, strict=False):
        for other in rows:
            axes.plot(other.curve.t, other.curve.logsnr, color="0.88", linewidth=0.8)
        axes.axhline(TERMINAL_LIMIT, color="0.6", linestyle=":", linewidth=1)
        colour = "C1" if row.notebook else "C0"
        axes.plot(row.curve.t, row.curve.logsnr, color=colour, linewidth=2)
        axes.set_ylim(RANGE)
        axes.set_title(row.name, fontsize="medium", color="C3" if row.warnings else "black")
        axes.text(0.04, 0.05, _label(row), transform=axes.transAxes, fontsize="small")
    figure.supxlabel("t (clean to noisy)")
    figure.supylabel("log-SNR (dotted: 5 % of the signal left)")
    canvas.save(figure, path)


def _bars(axes: Axes, losses: Mapping[Parametrisation, Mapping[LossKind, BaselineLosses]]) -> None:
    """Four bars for each parametrisation."""
    kinds: tuple[LossKind, ...] = ("l1", "mse")
    bars = {
        f"{kind.upper()}, {knows}": [getattr(losses[name][kind], key) for name in losses]
        for kind in kinds
        for key, knows in LEARNED_NOTHING
    }
    for k, (label, heights) in enumerate(bars.items()):
        drawn = axes.bar(
            [i + 0.2 * (k - 1.5) for i in range(len(losses))], heights, 0.19, label=label
        )
        axes.bar_label(drawn, fmt="%.2f", fontsize="x-small")
    axes.set_xticks(range(len(losses)), list(losses))
    axes.set_title("baseline losses: nothing learned yet", fontsize="medium")
    axes.legend(fontsize="small")


def _label(r: ScheduleFacts) -> str:
    eps = r.losses["eps"]
    return (
        f"gain {gain(r)}\neps, knowing the variance:\n"
        f"L1 {eps['l1'].variance:.3f}, MSE {eps['mse'].variance:.3f}"
    )
