"""The results of `diagnose sampler`, as its JSON file holds them.

Errors are relative to the latents' own spread: 1 is as far off as always answering the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from latentdiff.diffusion.settings import Sampler, Spacing
from latentdiff.evaluation.oracle import SampleErrors

ErrorName = Literal["end", "covariance", "mean"]


@dataclass(frozen=True)
class Setup:
    """One sampler on one problem."""

    schedule: str
    latents: str
    """Gaussian or mixture."""
    sampler: str
    """Sampler with its options, such as `ddim eta=1`."""

    def __str__(self) -> str:
        return f"{self.sampler} on schedule {self.schedule}, {self.latents}"


@dataclass(frozen=True)
class StepsRow(Setup):
    """Errors with a number of steps, compared with perfect integration."""

    steps: int
    mean: float
    covariance: float
    end: float | None
    """None if the sampler adds fresh noise: end points cannot be compared then."""

    def error(self, kind: ErrorName) -> float | None:
        """The error of this kind."""
        errors: dict[ErrorName, float | None] = {
            "end": self.end,
            "covariance": self.covariance,
            "mean": self.mean,
        }
        return errors[kind]


@dataclass(frozen=True)
class OrderRow(Setup):
    """An order of convergence: error ~ 1 / steps^order."""

    order: float
    """Measured order."""
    expected: int
    error: float
    """Error at the larger of the two step counts between which the order is measured."""
    kept: bool
    """Whether the sampler reaches its order, or errs by rounding only."""


@dataclass(frozen=True)
class ConversionRow(Setup):
    """Samples with a network's output compared with those of the exact denoiser."""

    output: str
    """eps, v, x0, flow or preconditioned."""
    steps: int
    deviation: float
    """Root mean square difference of the samples; NaN if a sampler diverged."""


@dataclass(frozen=True)
class StartRow:
    """Errors that remain with perfect integration, compared with the latents."""

    schedule: str
    first: float
    """Log-SNR where sampling starts."""
    last: float
    """Log-SNR where it ends."""
    gain: float
    true: SampleErrors
    """Errors when started from the true distribution at `first`."""
    noise: SampleErrors
    """Errors when started from pure noise."""
    noise_level_db: float
    """Level of samples started from pure noise, relative to the latents."""
    signal_left: float
    """alpha at the schedule's noisy end, 0..1."""


@dataclass(frozen=True)
class ConfiguredSampler:
    """The sampler as `sample` would run it."""

    sampler: Sampler
    steps: int
    errors: SampleErrors
    judged: float
    """`judged` with the default spacing; None in files of older versions."""
    judged_by_default: float | None = None
    """The same with the default spacing; None in files of older versions."""
    enough_steps: int | None = None
    """Steps that bring the error below COARSE, if `steps` do not; None if no number tried does."""


@dataclass(frozen=True)
class SamplerResults:
    """Everything that was measured."""

    schedule: str
    """The configured one."""
    spacing: Spacing
    errors: list[StepsRow]
    orders: list[OrderRow]
    conversions: list[ConversionRow]
    starts: list[StartRow]
    """One row per schedule, the configured one first."""
    configured: ConfiguredSampler
    chance: float
    """Error of the covariance of as many independent draws, on average."""
    broken: list[str] = field(default_factory=list)
    """Faults of samplers and of conversions between outputs; empty if there are none."""
