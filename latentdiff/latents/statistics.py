"""Moments of a codec's latents, computed in one pass, and which directions carry sound.

Shapes: D latent dimensions of the codec, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentdiff import runs
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

FALLBACK_FIDELITY = 0.99
"""Share of the variance that `keep: auto` keeps where the posterior's variance is unknown."""

LEAST_BITS = 0.1
"""Bits per frame that a direction must carry to be kept by `auto`. Directions below the
posterior's own noise are still audible: on a RAVE v2 of 128 dimensions, keeping only the five above
that noise changes the decoded sound by up to 0.22 dB of spectral distance, keeping nine by 0.11."""

RANK_TOLERANCE = 1e-9
"""Directions with less than this share of the largest variance are constant but for rounding."""

Keep = str | int | float
"""auto | all | number of directions | share of the variance; see LatentConfig.keep."""


@dataclass(frozen=True)
class LatentStatistics:
    """Moments of the posterior means over all training frames, float64."""

    frames: int
    """Number of frames."""
    mean: Array
    """[D]."""
    covariance: Array
    """[D, D], of the posterior means."""
    minimum: Array
    """[D]."""
    maximum: Array
    """[D]."""
    posterior_variance: Array | None
    """[D], variance of the posterior around its mean, averaged over frames; None: unknown."""

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)

    def principal(self) -> tuple[Array, Array]:
        """Variances [D], falling, and their directions, the rows of [D, D].

        The sign of a direction is fixed (its largest entry is positive), so that equal statistics
        give equal directions on every machine.
        """
        variances, columns = np.linalg.eigh(self.covariance)
        directions = columns.T[::-1]
        largest = np.abs(directions).argmax(axis=1)[:, None]
        signs = np.sign(np.take_along_axis(directions, largest, axis=1))
        # Rounding can make the variance of a constant direction slightly negative.
        return np.maximum(variances[::-1], 0.0), directions * signs

    def kept(self, keep: Keep) -> NDArray[np.int64]:
        """Indices into `principal()` of the directions that `keep` selects, falling in variance.

        Raises UserError if there are none, or fewer than the number asked for.
        """
        variances, _ = self.principal()
        varying = int((variances > RANK_TOLERANCE * variances[0]).sum())
        if keep == "all":
            chosen = np.arange(varying)
        elif keep == "auto" and self.posterior_variance is not None:
            chosen = np.flatnonzero(0.5 * np.log2(1 + self.signal_to_noise()) > LEAST_BITS)
        elif isinstance(keep, int):
            chosen = np.arange(keep)
        else:
            share = FALLBACK_FIDELITY if keep == "auto" else float(keep)
            chosen = np.arange(self._count_for(share))
        self._check(chosen, varying)
        return chosen

    def signal_to_noise(self) -> Array:
        """[D]: variance along each principal direction over the posterior's variance there.

        A direction of ratio s carries 0.5 log2(1 + s) bits per frame, the capacity of a Gaussian
        channel (Shannon 1948). Raises UserError if `posterior_variance` is None.
        """
        if self.posterior_variance is None:
            raise UserError(
                "the encoder's own noise is not known",
                why="these latents have no standard deviations",
                do_this="set latents.scaling to unit or global.",
            )
        variances, directions = self.principal()
        # The posterior is diagonal in the codec's own axes: its variance along a direction.
        noise: Array = directions**2 @ self.posterior_variance
        ratio: Array = variances / np.maximum(noise, 1e-30)
        return ratio

    def share(self, chosen: NDArray[np.int64]) -> float:
        """Share 0..1 of the variance that lies along these principal directions."""
        variances, _ = self.principal()
        return float(variances[chosen].sum() / max(variances.sum(), 1e-300))

    def describe(self, keep: Keep = "auto") -> str:
        """One line for the log: how many dimensions there are, and how many are kept."""
        chosen = self.kept(keep)
        percent = f"{100 * self.share(chosen):.3g} % of the variance"
        if keep != "auto":
            return f"{self.dimensions} dimensions, {len(chosen)} kept ({percent})"
        if self.posterior_variance is None:
            return (
                f"{self.dimensions} dimensions, {len(chosen)} hold {percent}; "
                "the encoder's own noise is not known"
            )
        rest = self.dimensions - len(chosen)
        tail = "; the others are the encoder's own noise" if rest else ""
        return f"{self.dimensions} dimensions, {len(chosen)} carry sound ({percent}){tail}"

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        from safetensors.numpy import save

        tensors = {
            "frames": np.asarray(self.frames, dtype=np.int64),
            "mean": self.mean,
            "covariance": self.covariance,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
        if self.posterior_variance is not None:
            tensors["posterior_variance"] = self.posterior_variance
        with runs.atomic(path) as partial:
            partial.write_bytes(save(tensors))

    @classmethod
    def load(cls, path: Path) -> LatentStatistics:
        """Read what `save` wrote. Raises UserError if it is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(path)
            frames = int(tensors.pop("frames"))
            posterior = tensors.pop("posterior_variance", None)
            return cls(frames=frames, posterior_variance=posterior, **tensors)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(
                f"cannot read the latent statistics {path}",
                why=str(error),
                do_this="delete the latents folder and run `latentdiff encode` again.",
            ) from error

    def _count_for(self, share: float) -> int:
        """How many of the first directions hold this share of the variance."""
        variances, _ = self.principal()
        # Rounding of the sum must not ask for one more direction than a share needs.
        held = np.cumsum(variances) / max(variances.sum(), 1e-300)
        return int(np.searchsorted(held, share - 1e-12) + 1)

    def _check(self, chosen: NDArray[np.int64], varying: int) -> None:
        if self.covariance.max() <= 0 or varying == 0:
            raise UserError(
                "the latents do not vary",
                why="every frame of every file was encoded to the same vector",
                do_this="check the audio (is it silent?) and the codec (`latentdiff encode "
                "--check`).",
            )
        if len(chosen) == 0:
            raise UserError(
                "no direction of the latents carries sound",
                why="in every direction the encoder's own noise exceeds the changes of the latents",
                do_this="train the codec longer or with a smaller beta; to continue anyway, set "
                "latents.keep to a number such as 4.",
            )
        if len(chosen) > varying:
            raise UserError(
                f"latents.keep asks for {len(chosen)} directions, but only {varying} vary",
                why=f"{self.dimensions} dimensions, {self.frames} frames",
                do_this=f"set latents.keep to at most {varying}, or to auto.",
            )


class StatisticsAccumulator:
    """Computes `LatentStatistics` in one pass and constant memory.

    Mean and covariance are merged block by block (Chan, Golub, LeVeque 1983, eq. 2.1), which unlike
    a sum of squares keeps its digits if the mean is large compared to the spread.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._posterior_frames = 0
        self._mean: Array = np.zeros(0)
        self._scatter: Array = np.zeros((0, 0))
        self._posterior_sum: Array = np.zeros(0)
        self._minimum: Array = np.zeros(0)
        self._maximum: Array = np.zeros(0)

    def update(self, mean: ArrayLike, std: ArrayLike | None = None) -> None:
        """Add one file: posterior means [D, T], and standard deviations [D, T] if known.

        Raises UserError for values that are not finite, or for another D than before.
        """
        block = _checked(mean, "mean")
        if block.shape[1] == 0:
            return
        other = StatisticsAccumulator()
        other._frames = block.shape[1]
        other._mean = block.mean(axis=1)
        centred = block - other._mean[:, None]
        # Sum of outer products about the block's own mean, what `merge` expects.
        other._scatter = np.dot(centred, centred.T)
        other._minimum = np.asarray(block.min(axis=1), dtype=np.float64)
        other._maximum = np.asarray(block.max(axis=1), dtype=np.float64)
        other._posterior_sum = np.zeros(len(block))
        if std is not None:
            other._posterior_frames = block.shape[1]
            spread = _checked(std, "standard deviation")
            other._posterior_sum = np.einsum("dt,dt->d", spread, spread)
        self.merge(other)

    def merge(self, other: StatisticsAccumulator) -> None:
        """Add another accumulator's frames, in any order. Raises UserError if dimensions differ."""
        if other._frames == 0:
            return
        if self._frames == 0:
            self.__dict__.update(other.__dict__)
            return
        if len(self._mean) != len(other._mean):
            raise UserError(
                f"some latents have {len(self._mean)} dimensions, others {len(other._mean)}",
                why="they come from different codecs",
                do_this="encode all of them with one codec.",
            )
        frames = self._frames + other._frames
        # Scatter about the common mean: both parts', and that of their means about it.
        step = other._mean - self._mean
        weight = self._frames * other._frames / frames
        self._scatter = self._scatter + other._scatter + weight * np.outer(step, step)
        self._mean = self._mean + step * (other._frames / frames)
        self._posterior_sum = self._posterior_sum + other._posterior_sum
        self._posterior_frames += other._posterior_frames
        self._minimum = np.minimum(self._minimum, other._minimum)
        self._maximum = np.maximum(self._maximum, other._maximum)
        self._frames = frames

    def finish(self) -> LatentStatistics:
        """The statistics of all frames. Raises UserError for fewer than two."""
        if self._frames < 2:
            raise UserError(
                "there are no latents to learn from",
                why=f"the training files contain {self._frames} latent frames",
                do_this="add audio; an hour is a good start.",
            )
        posterior = None
        if self._posterior_frames:
            posterior = self._posterior_sum / self._posterior_frames
        return LatentStatistics(
            frames=self._frames,
            mean=self._mean,
            covariance=self._scatter / self._frames,
            minimum=self._minimum,
            maximum=self._maximum,
            posterior_variance=posterior,
        )


def fit(files: Iterable[tuple[ArrayLike, ArrayLike | None]]) -> LatentStatistics:
    """Statistics of (mean [D, T], std [D, T] or None) for every training file."""
    accumulator = StatisticsAccumulator()
    for mean, std in files:
        accumulator.update(mean, std)
    return accumulator.finish()


def _checked(values: ArrayLike, what: str) -> Array:
    block = np.asarray(values, dtype=np.float64)
    if block.ndim != 2:
        raise UserError(f"latents must be [dimensions, frames], not of shape {block.shape}")
    if not np.isfinite(block).all():
        raise UserError(
            f"the {what} of the latents contains NaN or infinite values",
            why="the codec failed on this audio, or the file is damaged",
            do_this="check the audio file and the codec (`latentdiff inspect`).",
        )
    return block
