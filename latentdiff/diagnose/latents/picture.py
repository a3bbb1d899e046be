"""Picture of `diagnose latents`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentdiff.evaluation import canvas
from latentdiff.latents.statistics import LEAST_BITS

LEAST = 1e-6
"""Smaller variances are drawn here."""


def directions(path: Path, results: dict[str, Any]) -> None:
    """Variance, bits, autocorrelation and normality along the principal directions."""
    figure = canvas.figure(11, 7)
    panels = figure.subplots(2, 2, sharex=True)
    rows = results["directions"]
    for axes, draw in zip(panels.flat, (_variances, _bits, _correlations, _kurtosis), strict=True):
        draw(axes, rows)
        if results["kept"]:
            kept = [k + 1 for k in results["kept"]]
            axes.axvspan(min(kept) - 0.5, max(kept) + 0.5, color="C2", alpha=0.12, label="kept")
        axes.legend(fontsize="small")
    for axes in panels[-1]:
        axes.set_xlabel("principal direction")
    figure.suptitle(f"{results['carrying']} of {results['dimensions']} dimensions carry sound")
    canvas.save(figure, path)


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, style: str, label: str) -> None:
    """Nothing where it is not known."""
    if rows[0][key] is not None:
        axes.plot(range(1, len(rows) + 1), [row[key] for row in rows], style, label=label)


def _variances(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    _line(axes, rows, "variance", "C0-", "of the means")
    _line(axes, rows, "posterior", "C1-", "of the posterior itself")
    _line(axes, rows, "drawn_variance", "C3:", "of draws")
    axes.set(yscale="log", title="variance")
    axes.set_ylim(bottom=LEAST)


def _bits(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    _line(axes, rows, "bits", "C0-", "bits a frame")
    _line(axes, rows, "fidelity", "C4--", "share of the variance, up to here")
    axes.axhline(LEAST_BITS, color="grey", linewidth=1, label="least that carries sound")
    axes.set_title("what the encoder sends")


def _correlations(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    _line(axes, rows, "lag_1", "C0-", "means")
    _line(axes, rows, "drawn_lag_1", "C3:", "draws")
    axes.axhline(0, color="grey", linewidth=1)
    axes.set_title("autocorrelation from frame to frame (noise: 0)")


def _kurtosis(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    _line(axes, rows, "kurtosis", "C0-", "means")
    _line(axes, rows, "drawn_kurtosis", "C3:", "draws")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_title("excess kurtosis (normal: 0)")
