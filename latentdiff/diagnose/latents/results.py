"""The results of `diagnose latents`, as its JSON file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latentdiff.evaluation.value_range import ValueRange


@dataclass(frozen=True)
class Direction:
    """One principal direction of the latents."""

    variance: float
    """Variance of the stored latents along this direction."""
    posterior: float | None
    """Variance of the encoder's posterior, on average; None if unknown."""
    bits: float | None
    """Bits the encoder sends per frame; None if the posterior is unknown."""
    fidelity: float
    """Share of the total variance along this and all stronger directions, 0..1."""
    lag_1: float
    """Autocorrelation from one frame to the next."""
    correlation_time: float
    """Frames after which the autocorrelation falls below 1/e."""
    kurtosis: float
    """Excess kurtosis: 0 for a normal distribution."""
    within_1_std: float
    """Share of the frames within one standard deviation of the mean, 0..1."""
    drawn_variance: float | None
    """Variance of draws from the posterior; None, like the next two, if it is unknown."""
    drawn_lag_1: float | None
    drawn_kurtosis: float | None


@dataclass(frozen=True)
class LossesOfDraws:
    """One loss on these directions scaled to variance 1, averaged over the schedule."""

    zero: float
    """Loss of predicting zero."""
    variance: float
    """Loss of the best denoiser that knows only the variances: skill 0."""
    floor: float | None
    """Loss of a model that knows everything except the noise in the latents; None if unknown."""
    unlearnable: float | None
    """`floor` over `variance`, 0..1; None if unknown."""


@dataclass(frozen=True)
class LatentLosses:
    """How much noise in the latents raises the lowest loss that a model can reach."""

    of_draws: bool
    """Whether of draws from the posterior; else of the latents as stored, whose noise is not known:
    then `floor` counts only the directions that look like noise, and is a lower bound."""
    schedule: str
    objectives: Mapping[str, LossesOfDraws]
    """Losses by parametrisation and loss kind, such as `eps, l1`."""
    one_output: Mapping[str, tuple[float, float] | None]
    """Least and largest loss of one output channel for all directions, by kind; None if the kind
    has no closed form."""


@dataclass(frozen=True)
class LatentsResults:
    """Everything that was measured on the training files."""

    latents: str
    """Folder."""
    files: int
    frames: int
    frame_seconds: float | None
    """None if the codec is unknown."""
    dimensions: int
    carrying: int
    """Directions that carry sound; an upper bound if the posterior is unknown."""
    posterior_known: bool
    bits: float | None
    """Sent by the encoder in each frame along `carrying` directions; None if unknown."""
    keep: str | int | float
    """The setting `latents.keep`."""
    kept: list[int]
    """Indices of the directions that the model uses; empty if `keep` cannot be met."""
    trouble: str
    """Why `keep` cannot be met; else empty."""
    noise: int
    """Directions that look like white noise, as stored."""
    noise_if_drawn: int | None
    """The same for draws from the posterior; None if it is unknown."""
    directions: list[Direction]
    """Falling in variance."""
    extent: Mapping[str, ValueRange]
    """`raw`: stored latents; `final`: the model's whitened latents, if `keep` can be met."""
    loss: LatentLosses
