"""What a place that metrics go to can do.

Shapes: H height and W width of a picture, N audio samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Setting = bool | int | float | str


class Backend:
    """Shows nothing; each place overrides what it can show. Steps never go backwards."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name."""

    def audio(self, step: int, name: str, samples: np.ndarray, sample_rate: int) -> None:
        """Mono sound [N] in -1..1, at `sample_rate` Hz."""

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """The distribution of finite values, any shape."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Colours [H, W, 3], uint8."""

    def hparams(self, settings: Mapping[str, Setting], results: Mapping[str, float]) -> None:
        """Settings by dotted name, and what they have come to."""

    def close(self) -> None:
        """Everything is on disk, or on its way."""
