"""Picture of `diagnose noise-ladder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentdiff.evaluation import canvas

LEVELS = {
    "white noise": ("C3", "white noise"),
    "unit noise": ("C1", "unit noise, all dimensions"),
    "mean": ("C4", "mean of the latents"),
}


def ladder(path: Path, results: dict[str, Any]) -> None:
    """Spectral distance and level against k, between encodings and what encodes nothing."""
    figure = canvas.figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    _draw(left, results, "distance_db")
    left.axhline(results["limit_db"], color="grey", linestyle="--", label="broken")
    if results["tolerance_std"] is not None:
        left.axvline(results["tolerance_std"], color="grey", linestyle="--")
        left.set_title(f"the decoder bears {results['tolerance_std']:.2f}")
    left.set(ylabel="spectral distance in dB", ylim=(0, None))
    _draw(right, results, "level_db")
    right.axhline(results["unnoised_db"], color="C2", linestyle=":", label="without noise")
    lowest = min(row["level_db"] for row in results["rungs"])
    right.set(ylabel="level in dBFS", ylim=(max(-90.0, lowest - 45), 0))
    for axes in (left, right):
        axes.set(xlabel="k: noise in deviations of the latents", xscale="log")
        axes.legend(fontsize="small")
    canvas.save(figure, path)


def _draw(axes: Any, results: dict[str, Any], key: str) -> None:
    for name, label in (("rungs", "kept directions"), ("left_out_rungs", "left-out directions")):
        rows = results[name]
        axes.plot([row["k"] for row in rows], [row[key] for row in rows], "o-", label=label)
    for name, (colour, label) in LEVELS.items():
        axes.axhline(results["others"][name][key], color=colour, linestyle=":", label=label)
