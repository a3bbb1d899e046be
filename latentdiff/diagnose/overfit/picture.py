"""Picture of `diagnose overfit`.

Shapes: C latent channels, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from latentdiff.evaluation import canvas

COLUMNS = 5
INCHES = 2.6
"""Width of an image."""


def draw(
    path: Path, target: Tensor, samples: Mapping[int, Tensor], distances: Mapping[int, float]
) -> None:
    """The target [C, T], and a sample [C, T] with its median distance for each number of steps."""
    images = {"target": target} | {
        f"{steps} step{'s' * (steps > 1)}: {distances[steps]:.3f}": sample
        for steps, sample in samples.items()
    }
    rows = -(-len(images) // COLUMNS)
    height = 0.4 + INCHES * target.shape[0] / target.shape[1]
    figure = canvas.figure(INCHES * COLUMNS, height * rows)
    # All on the target's grey scale.
    low, high = float(target.min()), float(target.max())
    panels = figure.subplots(rows, COLUMNS).flat
    for axes, (title, image) in zip(panels, images.items(), strict=False):
        axes.imshow(image.numpy(), vmin=low, vmax=high, cmap="gray", aspect="equal")
        axes.set_title(title, fontsize="small")
    for axes in figure.axes:
        axes.set_axis_off()
    canvas.save(figure, path)
