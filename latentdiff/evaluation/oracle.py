"""Tests samplers on latents with a known exact denoiser: is training or sampling at fault?

With a perfect model, every error of a sample is the sampler's own.

Shapes: B batch, C latent channels, T latent frames, N = C T values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.exact import Exact, ExactNetwork
from latentdiff.diffusion.methods import METHODS, SamplerOptions, SamplerState
from latentdiff.diffusion.noise import NOISE_ONLY, Schedule
from latentdiff.diffusion.samplers import integrate, make_logsnrs
from latentdiff.diffusion.settings import SamplingConfig, Spacing
from latentdiff.specs import NO_CONDITION, Condition, Denoise

STEPS = (1, 2, 3, 5, 10, 20, 50, 100, 1000)

OUTPUTS = ("eps", "v", "x0", "flow", "preconditioned")
"""Network outputs that are tested; `preconditioned`: the network with `diffusion.precondition`."""

ORDER_STEPS = (50, 200)
"""Orders are measured between these: enough steps for the leading term, and far from rounding."""

ORDER_TOLERANCE = 0.2
"""A sampler whose order is lower by more is broken. They measure within 0.05 on any schedule."""

ROUNDING = 1e-5
"""Errors below this are not judged: the model is given noise levels in single precision."""


@dataclass(frozen=True)
class SamplerVariant:
    """A sampling method with its options, and how its error must fall."""

    sampler: str
    """Name in METHODS."""
    options: SamplerOptions = field(default_factory=SamplerOptions)

    @property
    def order(self) -> int:
        """The error must fall as 1 / steps^order."""
        return METHODS[self.sampler].order

    @property
    def ode(self) -> bool:
        """Whether it follows the probability-flow ODE, so that each start has one right end."""
        return not METHODS[self.sampler].stochastic(self.options)

    @classmethod
    def of(cls, config: SamplingConfig) -> SamplerVariant:
        """The sampler that the settings ask for."""
        return cls(config.sampler, SamplerOptions(config.eta, config.variance))


def sampler_variants() -> dict[str, SamplerVariant]:
    """Every method with its default options, and with those it declares as variants."""
    variants = {}
    for name, method in METHODS.items():
        variants[name] = SamplerVariant(name)
        for label, options in method.variants.items():
            variants[f"{name} {label}"] = SamplerVariant(name, options)
    return variants


VARIANTS = sampler_variants()
"""All variants that are tested, by name with the options."""


@dataclass(frozen=True)
class SampleErrors:
    """Distance of samples from the truth, in units of the latents' own spread."""

    mean: float
    """Distance of the means over the deviation."""
    covariance: float
    """Frobenius norm of the difference over that of the truth."""
    end: float | None = None
    """Root mean square distance, sample by sample, over the deviation; None: fresh noise makes the
    samples incomparable."""

    @property
    def judged(self) -> float:
        """The error that must fall with the sampler's order: of the end points, else of the
        covariance."""
        return self.covariance if self.end is None else self.end


@dataclass(frozen=True)
class OracleProblem:
    """Sampling from the schedule's noisy end to its clean end: starts [B, C, T], exact ends."""

    exact: Exact
    schedule: Schedule
    spacing: Spacing = "logsnr"
    batch: int = 64

    @property
    def first(self) -> float:
        """log-SNR where sampling starts."""
        return max(self.schedule.logsnr_min, NOISE_ONLY)

    @cached_property
    def starts(self) -> Tensor:
        """[B, C, T] from the true marginal at the noisy end."""
        return self.exact.noisy(self.first).draw(self.batch)

    @cached_property
    def noise(self) -> Tensor:
        """[B, C, T] of pure noise, from which sampling really starts."""
        ones = torch.ones_like(self.exact.variances)
        return replace(self.exact, means=0 * ones, variances=ones).draw(self.batch)

    @cached_property
    def ends(self) -> Tensor:
        """[B, C, T], where perfect integration takes `starts`."""
        return self.ends_of(self.starts)

    def ends_of(self, starts: Tensor) -> Tensor:
        """`starts` [B, C, T] moved along the exact flow to the clean end, and denoised there."""
        last = self.schedule.logsnr_max
        z = self.exact.flow(starts, self.first, last)
        return self.exact(z, torch.full((len(z),), last))

    @property
    def linear(self) -> bool:
        """Whether the exact denoiser is linear, which it is for a Gaussian."""
        return len(self.exact.weights) == 1

    @property
    def deviation(self) -> float:
        """Standard deviation of the latents, root mean square over their N values."""
        return math.sqrt(float(self.exact.covariance.trace()) / len(self.exact.basis))

    @property
    def chance(self) -> float:
        """Error of the covariance that B independent draws of Gaussian latents have on average."""
        truth = self.exact.covariance
        return math.sqrt((float(truth.trace() / truth.norm()) ** 2 + 1) / self.batch)

    def run(
        self,
        variant: SamplerVariant,
        steps: int,
        model: Denoise | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Samples [B, C, T] with the exact denoiser in float64, or with `model` in float32."""
        balancer = NoiseBalancer(model or self.exact, balanced=self.linear)
        state = SamplerState(balancer, NO_CONDITION, balancer.noise, variant.options)
        z = self.starts if starts is None else starts
        logsnrs = make_logsnrs(self.schedule, steps, self.spacing)
        z = z if model is None else z.float()
        return integrate(state, z, logsnrs, variant.sampler).double()

    def errors(self, variant: SamplerVariant, samples: Tensor) -> SampleErrors:
        """Errors of samples [B, C, T] begun at `starts`, compared with perfect integration."""
        mean, covariance = _moments(self.ends)
        result = self.moment_errors(samples, mean, covariance)
        return replace(result, end=self.distance(samples, self.ends)) if variant.ode else result

    def errors_from_latents(self, samples: Tensor) -> SampleErrors:
        """Errors of samples [B, C, T] compared with the latents' own distribution."""
        return self.moment_errors(samples, self.exact.mean, self.exact.covariance)

    def moment_errors(self, samples: Tensor, mean: Tensor, covariance: Tensor) -> SampleErrors:
        """Errors of the moments of samples [B, C, T], given mean [N] and covariance [N, N]."""
        our_mean, ours = _moments(samples)
        return SampleErrors(
            mean=float((our_mean - mean).square().mean().sqrt()) / self.deviation,
            covariance=float((ours - covariance).norm() / covariance.norm()),
        )

    def distance(self, a: Tensor, b: Tensor) -> float:
        """RMS difference of a and b [B, C, T] over the latents' deviation."""
        return float((a - b).square().mean().sqrt()) / self.deviation

    def level_db(self, samples: Tensor) -> float:
        """Total variance of samples [B, C, T] over that of the latents, in dB."""
        return 10 * math.log10(float(_moments(samples)[1].trace() / self.exact.covariance.trace()))

    def order(self, variant: SamplerVariant) -> tuple[float, float]:
        """(order of the judged error between the ORDER_STEPS, error with the most steps)."""
        few, many = ORDER_STEPS
        errors = [self.errors(variant, self.run(variant, n)).judged for n in ORDER_STEPS]
        # An error of zero has no logarithm.
        coarse, fine = (max(error, 1e-30) for error in errors)
        # N levels are N - 1 steps of the method.
        return math.log(coarse / fine) / math.log((many - 1) / (few - 1)), fine


def as_denoiser(exact: Exact, output: str) -> Denoiser:
    """The exact denoiser as a `Denoiser` whose network predicts one of OUTPUTS."""
    if output == "preconditioned":
        variance = exact.channel_variance.float()
        return Denoiser(ExactNetwork(exact, "v", variance), "v", variance=variance)
    return Denoiser(ExactNetwork(exact, output), output, precondition=False)  # type: ignore[arg-type]


class NoiseBalancer:
    """A denoiser that remembers its input, and fresh noise [B, C, T] that is balanced against it.

    `balanced`: over the batch the noise has exactly mean 0 and covariance 1 and is uncorrelated
    with what the denoiser was given last. If everything is linear, samples then have the moments
    that infinitely many would have (B > 2 N); if not, it would bias them, and `balanced` must be
    False.
    """

    def __init__(self, denoise: Denoise, balanced: bool, seed: int = 0) -> None:
        self._denoise = denoise
        self._balanced = balanced
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """The denoiser's own answer."""
        self._input = z_t
        return self._denoise(z_t, logsnr, condition)

    def noise(self) -> Tensor:
        """[B, C, T], new at each call; after the first call of the denoiser."""
        z = self._input.flatten(1).double()
        noise = torch.randn(z.shape, generator=self._generator, dtype=torch.float64)
        if self._balanced:
            # QR makes the columns orthogonal to all before them: to the constant, which gives mean
            # 0, to every value of the input, and to each other. They come out with norm 1.
            columns = torch.cat([torch.ones_like(z[:, :1]), z, noise], dim=1)
            noise = torch.linalg.qr(columns)[0][:, 1 + z.shape[1] :] * math.sqrt(len(z))
        return noise.view_as(self._input).to(self._input.dtype)


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [N] and covariance [N, N]."""
    values = z.flatten(1)
    mean = values.mean(dim=0)
    return mean, (values - mean).T @ (values - mean) / len(values)
