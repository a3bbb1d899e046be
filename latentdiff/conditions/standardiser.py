"""Condition features standardised to mean 0 and variance 1.

Shapes: K condition features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Standardiser:
    """Scales each feature to mean 0 and variance 1 over the training frames."""

    mean: Floats
    """[K]."""
    std: Floats
    """[K], with a lower limit, so that a band that is always silent is not blown up."""

    @classmethod
    def fit(cls, files: Iterable[Floats], least_std: float = 1e-3) -> Standardiser:
        """From the features [K, T] of every training file, in one pass.

        Raises UserError if there are none, or if they are not finite.
        """
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for features in files:
            # The difference of two large sums below needs the digits.
            block = features.astype(np.float64)
            count += block.shape[1]
            total = total + block.sum(axis=1)
            squares = squares + (block**2).sum(axis=1)
        if count == 0 or not np.isfinite(squares).all():
            raise UserError(
                "the condition features cannot be used",
                why="there are none" if count == 0 else "they contain NaN or infinite values",
                do_this="encode the recordings again.",
            )
        mean = total / count
        std = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), least_std)
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, features: Floats) -> Floats:
        """[..., K, T] => the same, standardised."""
        scaled: Floats = ((features - self.mean[:, None]) / self.std[:, None]).astype(np.float32)
        return scaled

    def inverse(self, standardised: Floats) -> Floats:
        """Standardised features [..., K, T] => the features."""
        features: Floats = standardised * self.std[:, None] + self.mean[:, None]
        return features

    def arrays(self) -> dict[str, Floats]:
        """The arrays `mean` and `std` to save; the inverse of `from_arrays`."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike]) -> Standardiser:
        """A standardiser from arrays or CPU tensors `mean` and `std`."""
        return cls(np.asarray(arrays["mean"]), np.asarray(arrays["std"]))
