"""The picture of `diagnose latents`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff.diagnose.latents.results import Direction, LatentsResults
from latentdiff.evaluation import canvas
from latentdiff.latents.statistics import LEAST_BITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 1e-6
"""Smaller variances are drawn here."""


def directions(path: Path, r: LatentsResults) -> None:
    """Variance, bits, autocorrelation and kurtosis along the principal directions."""
    figure = canvas.figure(11, 7)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, draw in zip(panels.flat, (_variances, _bits, _correlations, _kurtosis), strict=True):
        draw(axes, r.directions)
        if r.kept:
            kept = [k + 1 for k in r.kept]
            axes.axvspan(min(kept) - 0.5, max(kept) + 0.5, color="C2", alpha=0.12, label="kept")
        axes.legend(fontsize="small")
    for axes in panels[-1]:
        axes.set_xlabel("principal direction")
    at_most = "" if r.posterior_known else "at most "
    figure.suptitle(f"{at_most}{r.carrying} of {r.dimensions} dimensions carry sound")
    canvas.save(figure, path)


def _line(axes: Axes, values: Sequence[float | None], style: str, label: str) -> None:
    """Draws nothing if the values are unknown."""
    known = [value for value in values if value is not None]
    if known:
        axes.plot(range(1, len(known) + 1), known, style, label=label)


def _variances(axes: Axes, rows: Sequence[Direction]) -> None:
    _line(axes, [row.variance for row in rows], "C0-", "means")
    _line(axes, [row.posterior for row in rows], "C1-", "posterior")
    _line(axes, [row.drawn_variance for row in rows], "C3:", "draws")
    axes.set(yscale="log", title="variance")
    axes.set_ylim(bottom=LEAST)


def _bits(axes: Axes, rows: Sequence[Direction]) -> None:
    _line(axes, [row.bits for row in rows], "C0-", "bits a frame")
    _line(axes, [row.fidelity for row in rows], "C4--", "share of the variance so far")
    axes.axhline(LEAST_BITS, color="grey", linewidth=1, label="least bits that carry sound")
    axes.set_title("what the encoder sends")


def _correlations(axes: Axes, rows: Sequence[Direction]) -> None:
    _line(axes, [row.lag_1 for row in rows], "C0-", "means")
    _line(axes, [row.drawn_lag_1 for row in rows], "C3:", "draws")
    axes.axhline(0, color="grey", linewidth=1)
    axes.set_title("autocorrelation from frame to frame (noise: 0)")


def _kurtosis(axes: Axes, rows: Sequence[Direction]) -> None:
    _line(axes, [row.kurtosis for row in rows], "C0-", "means")
    _line(axes, [row.drawn_kurtosis for row in rows], "C3:", "draws")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_title("excess kurtosis (normal: 0)")
