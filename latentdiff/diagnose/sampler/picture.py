"""Picture of `diagnose sampler`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentdiff.evaluation import canvas

PANELS = {"end": "end points", "covariance": "covariance", "mean": "mean"}

LEAST = 1e-7
"""Smaller errors are rounding and drawn here."""


def errors(path: Path, results: dict[str, Any]) -> None:
    """Error against steps on the configured schedule, a row for each kind of latents."""
    rows = [row for row in results["errors"] if row["schedule"] == results["schedule"]]
    kinds = list(dict.fromkeys(row["latents"] for row in rows))
    figure = canvas.figure(13, 3.6 * len(kinds))
    grid = figure.subplots(len(kinds), len(PANELS), squeeze=False, sharex=True, sharey=True)
    for axes_row, kind in zip(grid, kinds, strict=True):
        for axes, (key, title) in zip(axes_row, PANELS.items(), strict=True):
            _panel(axes, [r for r in rows if r["latents"] == kind and r[key] is not None], key)
            axes.set_title(f"{kind}: error of the {title}", fontsize="medium")
        axes_row[0].set_ylabel("1: as far off as the mean")
    for axes in grid[-1]:
        axes.set_xlabel("steps (dotted: orders 1 and 2)")
    # The covariance has all samplers.
    handles, labels = grid[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    figure.suptitle(f"perfect model, schedule {results['schedule']}, by {results['spacing']}")
    canvas.save(figure, path)


def _panel(axes: Any, rows: list[dict[str, Any]], key: str) -> None:
    for name in dict.fromkeys(row["sampler"] for row in rows):
        mine = [row for row in rows if row["sampler"] == name]
        axes.loglog(
            [row["steps"] for row in mine],
            [max(row[key], LEAST) for row in mine],
            # Euler is DDIM: dashes show that both lie there.
            "o--" if name == "ddim" else "o-",
            markersize=3,
            label=name,
        )
    for order in (1, 2):
        axes.loglog([10, 1000], [1, 100.0**-order], ":", color="grey", linewidth=1)
