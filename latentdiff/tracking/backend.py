"""The interface of the places where metrics go.

Shapes: H height and W width of a picture, N audio samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Setting = bool | int | float | str


class Backend:
    """Does nothing; a subclass overrides what it can show. Steps never decrease."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name."""

    def audio(self, step: int, name: str, samples: np.ndarray, sample_rate: int) -> None:
        """Mono audio [N] in -1..1, at `sample_rate` Hz."""

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Finite values of any shape."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """RGB image [H, W, 3], uint8."""

    def hparams(self, settings: Mapping[str, Setting], results: Mapping[str, float]) -> None:
        """Settings by dotted name, and the results they led to."""

    def close(self) -> None:
        """Flush everything and close."""
