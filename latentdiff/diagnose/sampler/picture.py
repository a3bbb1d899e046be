"""The picture of `diagnose sampler`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff.diagnose.sampler.results import ErrorName, SamplerResults, StepsRow
from latentdiff.evaluation import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS: dict[ErrorName, str] = {"end": "end points", "covariance": "covariance", "mean": "mean"}

LEAST = 1e-7
"""Smaller errors are rounding, and drawn here."""


def errors(path: Path, r: SamplerResults) -> None:
    """Error against steps on the configured schedule, one row for each kind of latents."""
    rows = [row for row in r.errors if row.schedule == r.schedule]
    kinds = list(dict.fromkeys(row.latents for row in rows))
    figure = canvas.figure(13, 3.6 * len(kinds))
    grid = figure.subplots(len(kinds), len(PANELS), squeeze=False, sharex=True, sharey=True)
    for axes_row, latents in zip(grid, kinds, strict=True):
        for axes, (kind, title) in zip(axes_row, PANELS.items(), strict=True):
            _panel(axes, [row for row in rows if row.latents == latents], kind)
            axes.set_title(f"{latents}: error of the {title}", fontsize="medium")
        axes_row[0].set_ylabel("1: as far off as the mean")
    for axes in grid[-1]:
        axes.set_xlabel("steps (dotted: orders 1 and 2)")
    # Only the covariance shows all samplers.
    handles, labels = grid[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    figure.suptitle(f"perfect model, schedule {r.schedule}, by {r.spacing}")
    canvas.save(figure, path)


def _panel(axes: Axes, rows: Sequence[StepsRow], kind: ErrorName) -> None:
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        error = row.error(kind)
        if error is not None:
            curves.setdefault(row.sampler, []).append((row.steps, max(error, LEAST)))
    for name, curve in curves.items():
        # Euler equals DDIM: dashes show both curves.
        style = "o--" if name == "ddim" else "o-"
        axes.loglog(*zip(*curve, strict=True), style, markersize=3, label=name)
    for order in (1, 2):
        axes.loglog([10, 1000], [1, 100.0**-order], ":", color="grey", linewidth=1)
