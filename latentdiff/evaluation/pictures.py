"""Pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation import canvas
from latentdiff.evaluation.compare import SAMPLES, Comparison
from latentdiff.evaluation.sound import FLOOR_DB


@dataclass(frozen=True)
class LossCurves:
    """Mean losses at noise levels, all of one length."""

    logsnr: Sequence[float]
    """The levels, clean to noisy."""
    losses: Sequence[float]
    """Losses of the model."""
    zero: Sequence[float]
    """Losses of predicting zero."""
    variance: Sequence[float]
    """Losses of the best denoiser that knows only the variances: skill 0."""
    wiener: Sequence[float]
    """Losses of the best linear filter, which knows the spectra."""
    skill: float
    """Skill of the model over all levels."""


def losses(path: Path, curves: LossCurves) -> None:
    """Loss against log-SNR, with the baselines."""
    figure = canvas.figure(7, 4.5)
    axes = figure.subplots()
    for values, label, style in (
        (curves.zero, "predicts zero", ":"),
        (curves.variance, "knows variances (skill 0)", "--"),
        (curves.wiener, "knows spectra (Wiener filter)", "-."),
        (curves.losses, "the model", "o-"),
    ):
        axes.plot(curves.logsnr, values, style, label=label)
    axes.set(xlabel="log-SNR (left: clean, right: noise)", ylabel="loss", ylim=(0, None))
    axes.invert_xaxis()
    axes.legend()
    axes.set_title(f"held-out windows: skill {curves.skill:.2f}")
    canvas.save(figure, path)


def scores(path: Path, comparisons: Mapping[str, Comparison]) -> None:
    """The scores of all sets as bars, grouped by the kind of features."""
    names = list({n: None for c in comparisons.values() for n in c.sets})
    figure = canvas.figure(8, 1.2 + 0.5 * len(names))
    axes = figure.subplots()
    height = 0.8 / len(comparisons)
    for k, (kind, comparison) in enumerate(comparisons.items()):
        present = [(i, name) for i, name in enumerate(names) if name in comparison.sets]
        there = [(i, comparison.score(name) or 0.0) for i, name in present]
        shown = [(i + (k - (len(comparisons) - 1) / 2) * height, s) for i, s in there]
        values = [s for _, s in shown]
        axes.barh([y for y, _ in shown], values, height, label=kind)
    axes.set_yticks(range(len(names)), names)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name == SAMPLES else "normal")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="score (0: as far from the training set as noise; 1: as real)")
    axes.legend()
    canvas.save(figure, path)


def spectrograms(
    path: Path, rows: Mapping[str, Sequence[NDArray[np.float32]]], frame: float
) -> None:
    """Rows of log-mel spectrograms [bands, frames] in dB, by name; `frame` in seconds."""
    columns = max(len(row) for row in rows.values())
    figure = canvas.figure(3 * columns, 2.2 * len(rows) + 0.4)
    grid = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    for axes_row, (name, clips) in zip(grid, rows.items(), strict=True):
        for axes, clip in zip(axes_row, clips, strict=False):
            axes.imshow(
                clip,
                origin="lower",
                aspect="auto",
                vmin=FLOOR_DB,
                vmax=0,
                cmap="magma",
                extent=(0, clip.shape[1] * frame, 0, len(clip)),
            )
        for axes in axes_row[len(clips) :]:
            axes.set_visible(False)
        axes_row[0].set_ylabel("mel band")
        axes_row[0].set_title(name, loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("s")
    canvas.save(figure, path)
