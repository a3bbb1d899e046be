"""Views: what one clip is like, as a vector of features.

Shapes: B clips, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Describe = Callable[[Tensor], Tensor]
"""Clips [B, ...] -> features [B, F], float32 and finite. Row b depends on clip b alone."""


@dataclass(frozen=True)
class View:
    """One aspect of clips. Features are taken clip by clip; nothing is pooled over clips.

    `describe` takes latents [B, C, T], log-mel spectrograms [B, K, T] or mono audio [B, N],
    according to the view. Units and scales of features do not matter: comparisons standardise
    them with the training clips.
    """

    name: str
    """Short, as the table shows it, such as `rhythm`."""
    describe: Describe
