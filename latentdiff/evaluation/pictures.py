"""Pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation import canvas
from latentdiff.evaluation.scores import FormScores
from latentdiff.evaluation.sets import SAMPLES
from latentdiff.evaluation.sound import FLOOR_DB

LOWEST = -1.0
"""Scores below are drawn as this: a fake far away must not squeeze the others."""


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


def scores(path: Path, kinds: Mapping[str, FormScores]) -> None:
    """The joint scores of all sets as bars with their intervals, by the kind of features."""
    names = list({name: None for form in kinds.values() for name in form.joint.scores})
    figure = canvas.figure(8, 1.2 + 0.4 * len(names))
    axes = figure.subplots()
    height = 0.8 / len(kinds)
    for k, (kind, form) in enumerate(kinds.items()):
        known = {name: one for name, one in form.joint.scores.items() if one.value is not None}
        at = [names.index(name) + (k - (len(kinds) - 1) / 2) * height for name in known]
        values = [max(LOWEST, one.value or 0.0) for one in known.values()]
        lows, highs = ([getattr(one, end) for one in known.values()] for end in ("low", "high"))
        errors = [
            [max(0.0, v - max(LOWEST, low)) for v, low in zip(values, lows, strict=True)],
            [max(0.0, high - v) for v, high in zip(values, highs, strict=True)],
        ]
        axes.barh(at, values, height, xerr=errors, label=kind, error_kw={"elinewidth": 1})
    axes.set_yticks(range(len(names)), names)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name == SAMPLES else "normal")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.invert_yaxis()
    axes.set(xlabel="score (0: as far from the training clips as white noise; 1: as near as real)")
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
