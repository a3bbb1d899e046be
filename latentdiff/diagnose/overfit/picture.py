"""Picture of `diagnose overfit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from latentdiff.evaluation import canvas

COLUMNS = 5


def strip(
    path: Path, target: Tensor, samples: Mapping[int, Tensor], distances: Mapping[int, float]
) -> None:
    """The target [C, T], and a sample for each number of steps, with how far those are from it."""
    pictures = {"target": target} | {
        f"{steps} step{'s' * (steps > 1)}: {distances[steps]:.3f}": x
        for steps, x in samples.items()
    }
    rows = -(-len(pictures) // COLUMNS)
    figure = canvas.figure(2.6 * COLUMNS, (0.4 + 2.6 * target.shape[0] / target.shape[1]) * rows)
    low, high = float(target.min()), float(target.max())
    for axes, (title, picture) in zip(
        figure.subplots(rows, COLUMNS).flat, pictures.items(), strict=False
    ):
        axes.imshow(picture.numpy(), vmin=low, vmax=high, cmap="gray", aspect="equal")
        axes.set_title(title, fontsize="small")
    for axes in figure.axes:
        axes.set_axis_off()
    canvas.save(figure, path)
