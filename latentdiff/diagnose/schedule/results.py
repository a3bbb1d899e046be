"""The results of `diagnose schedule`, as its JSON file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latentdiff.diffusion.settings import LossKind, Parametrisation, Weighting


@dataclass(frozen=True)
class BaselineLosses:
    """Mean losses of two models that have learned nothing, over the levels a schedule visits."""

    zero: float
    """Loss of predicting zero."""
    variance: float
    """Loss of the best denoiser that knows only the variance of each channel: skill 0."""


@dataclass(frozen=True)
class Curve:
    """The schedule at evenly spaced t, clean to noisy."""

    t: list[float]
    """0..1."""
    logsnr: list[float]


@dataclass(frozen=True)
class ScheduleFacts:
    """One schedule, for latents of a given variance."""

    name: str
    steps: int | None
    """Length of a chain; None for a continuous schedule."""
    logsnr_max: float
    """Log-SNR at the clean end."""
    logsnr_min: float
    """Log-SNR at the noisy end."""
    gain: float | None
    """1 / alpha at the noisy end; None if infinite."""
    signal_left: float
    """alpha at the noisy end, 0..1."""
    beyond_noise: float
    """Share of the levels that are noisier than NOISE_ONLY, 0..1."""
    visited: Mapping[str, float]
    """Quantiles of the visited levels: percentage (10, 50, 90) -> log-SNR that this share is
    above."""
    curve: Curve
    losses: Mapping[Parametrisation, Mapping[LossKind, BaselineLosses]]
    """Unweighted losses."""
    warnings: list[str]


@dataclass(frozen=True)
class LatentVariance:
    """The latents that the losses are computed for."""

    variance: list[float]
    """Variance [C] of the model's (whitened) latents."""

    @property
    def mean(self) -> float:
        """Over the channels."""
        return sum(self.variance) / len(self.variance)


@dataclass(frozen=True)
class ConfiguredLosses(BaselineLosses):
    """The same for the loss that `train-diffusion` minimises."""

    parametrisation: Parametrisation
    loss: LossKind
    weighting: Weighting


@dataclass(frozen=True)
class EncoderNoise:
    """The log-SNR at which the schedule's noise equals the encoder's own, by direction."""

    least: float
    median: float
    most: float
    cleaner_share: float
    """Share of the schedule's levels that are cleaner than `most`, 0..1."""


@dataclass(frozen=True)
class ToleranceOnSchedule:
    """The decoder's noise tolerance, located on the schedule."""

    logsnr: float
    """Noise at this log-SNR and above does not change the decoded sound much."""
    cleaner_share: float
    """Share of the schedule's levels that are cleaner than that, 0..1."""
    reached: bool
    """Whether the schedule's clean end is at least that clean."""


@dataclass(frozen=True)
class ScheduleResults(ScheduleFacts):
    """The configured schedule, with what is known of a run's latents and decoder."""

    latents: LatentVariance
    configured: ConfiguredLosses
    posterior: EncoderNoise | None
    """None if the encoder's own noise is unknown."""
    tolerance: ToleranceOnSchedule | None
    """None if the noise ladder was not run, or found no limit."""
    missing: list[str]
    """Missing measurements, each with the command that makes it."""


@dataclass(frozen=True)
class GalleryRow(ScheduleFacts):
    """One schedule of the gallery."""

    source: str
    """A paper, or entries of the notebook."""
    notebook: bool
    """Whether it is from the notebook rather than from a paper."""
    settings: Mapping[str, str | int | float]
    """The entries of `diffusion.schedule` that differ from their defaults."""


@dataclass(frozen=True)
class GalleryResults:
    """Schedules side by side."""

    latents: LatentVariance
    schedules: list[GalleryRow]
