"""A grey picture as latents: rows are channels, columns are frames.

Shapes: C channels (rows, from the top), T frames (columns).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from latentdiff.errors import UserError

ROWS, COLUMNS = 24, 48
"""Size of the drawing."""
MOST = 64
"""Rows and columns at most; larger pictures are shrunk."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601, luma)."""


def drawn(rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """A drawing [C, T] with mean 0 and variance 1: a gradient, a ring, a square and stripes."""
    y = ((torch.arange(rows) + 0.5) / rows)[:, None]
    x = ((torch.arange(columns) + 0.5) / rows)[None]
    picture = 0.3 * y + 0.4 * x * rows / columns
    from_centre = ((x - 0.5) ** 2 + (y - 0.5) ** 2).sqrt()
    picture = torch.where((from_centre - 0.25).abs() < 0.1, 1.0, picture)
    square = ((x - 1.25).abs() < 0.2) & ((y - 0.5).abs() < 0.3)
    picture = torch.where(square, 0.0, picture)
    stripes = (x > 1.6) & ((y * 4) % 1 < 0.5)
    return standardised(torch.where(stripes, 1.0, picture))


def read(path: Path) -> Tensor:
    """A PNG file as [C, T] with mean 0 and variance 1, shrunk to MOST rows and columns.

    Transparent parts are white. Raises UserError if it is not a PNG, or has only one colour.
    """
    from matplotlib import image

    try:
        pixels = torch.from_numpy(image.imread(path, format="png")).float()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"cannot read the picture {path}",
            why=str(error).splitlines()[0] if str(error) else "it is not a PNG file",
            do_this="give a PNG file, or --image without a file for a drawing.",
        ) from error
    grey = _grey(pixels)
    factor = min(1.0, MOST / max(grey.shape))
    size = [max(4, round(side * factor)) for side in grey.shape]
    small = interpolate(grey[None, None], size=size, mode="area")[0, 0]
    if not small.std() > 0:
        raise UserError(
            f"the picture {path} is empty",
            why="it has only one colour",
            do_this="choose another picture.",
        )
    return standardised(small)


def standardised(picture: Tensor) -> Tensor:
    """[C, T], shifted and scaled to mean 0 and variance 1."""
    return (picture - picture.mean()) / picture.std(correction=0)


def _grey(pixels: Tensor) -> Tensor:
    """[H, W] or [H, W, 1 to 4] in 0..1 -> [H, W]."""
    if pixels.ndim == 2:
        return pixels
    colours, alpha = pixels, torch.ones(pixels.shape[:2])
    if pixels.shape[2] in (2, 4):
        colours, alpha = pixels[..., :-1], pixels[..., -1]
    grey = colours.mean(-1) if colours.shape[2] == 1 else colours @ torch.tensor(GREY)
    return grey * alpha + 1 - alpha
