"""The picture of `diagnose noise-ladder`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latentdiff.diagnose.noise_ladder.results import NoiseLadderResults
from latentdiff.evaluation import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = {
    "white noise": ("C3", "white noise"),
    "unit noise": ("C1", "unit noise, all dimensions"),
    "mean": ("C4", "mean of the latents"),
}


def ladder(path: Path, r: NoiseLadderResults) -> None:
    """Spectral distance and level against k, with those of latents that encode no sound."""
    figure = canvas.figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    _draw(left, r, "distance_db")
    left.axhline(r.limit_db, color="grey", linestyle="--", label="broken")
    if r.tolerance_std is not None:
        left.axvline(r.tolerance_std, color="grey", linestyle="--")
        left.set_title(f"decoder noise tolerance: {r.tolerance_std:.2f}")
    left.set(ylabel="spectral distance in dB", ylim=(0, None))
    _draw(right, r, "level_db")
    right.axhline(r.unnoised_db, color="C2", linestyle=":", label="without noise")
    lowest = min(rung.level_db for rung in r.rungs)
    right.set(ylabel="level in dBFS", ylim=(max(-90.0, lowest - 45), 0))
    for axes in (left, right):
        axes.set(xlabel="k: noise in standard deviations of the latents", xscale="log")
        axes.legend(fontsize="small")
    canvas.save(figure, path)


def _draw(axes: Axes, r: NoiseLadderResults, key: Literal["distance_db", "level_db"]) -> None:
    for rungs, label in ((r.rungs, "kept directions"), (r.left_out_rungs, "directions left out")):
        values = [getattr(rung, key) for rung in rungs]
        axes.plot([rung.k for rung in rungs], values, "o-", label=label)
    for name, (colour, label) in LEVELS.items():
        axes.axhline(getattr(r.others[name], key), color=colour, linestyle=":", label=label)
