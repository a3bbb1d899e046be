"""Sampling methods: each takes one step from a noise level to a cleaner one.

A method sees the model only through `SamplerState`, as an estimate of the clean latents, so none
of them knows what the network predicts. What belongs to a method is declared above it; a new one
is a function here and a line in METHODS.

Reading the settings must not import torch, hence neither does this module.

Shapes: B batch, C latent channels, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from latentdiff.specs import Condition, Denoise

if TYPE_CHECKING:
    from torch import Tensor

Variance = Literal["posterior", "beta"]


class NoiseLevel(NamedTuple):
    """A point on the noise axis."""

    logsnr: float
    alpha: float
    sigma: float

    @classmethod
    def at(cls, logsnr: float) -> NoiseLevel:
        """The level with this log-SNR; alpha^2 + sigma^2 = 1."""
        return cls(logsnr, (1 + math.exp(-logsnr)) ** -0.5, (1 + math.exp(logsnr)) ** -0.5)


@dataclass(frozen=True)
class SamplerOptions:
    """The settings of `sampling` that only some methods read; the names are the same there."""

    eta: float = 0.0
    """Share of fresh noise, 0..1."""
    variance: Variance = "posterior"
    """Variance of the fresh noise."""


@dataclass
class SamplerState:
    """State shared by the steps of one run: model, condition, fresh noise, the previous
    estimate."""

    denoise: Denoise
    condition: Condition
    noise_sampler: Callable[[], Tensor]
    """White noise [B, C, T], new at each call."""
    options: SamplerOptions = SamplerOptions()
    previous: tuple[NoiseLevel, Tensor] | None = field(default=None, init=False)
    """Level and estimate of the step before, for multistep methods."""

    def __call__(self, z: Tensor, level: NoiseLevel) -> Tensor:
        """The model's estimate of z_0 [B, C, T] for z [B, C, T] at a level."""
        import torch

        logsnr = torch.full((len(z),), level.logsnr, device=z.device, dtype=torch.float32)
        return self.denoise(z, logsnr, self.condition)


Step = Callable[[SamplerState, "Tensor", NoiseLevel, NoiseLevel], "Tensor"]
"""(state, z at `here`, here, there) -> z at `there`, both [B, C, T]."""


@dataclass(frozen=True)
class SamplerMethod:
    """A method and everything the rest of the program has to know about it."""

    step: Step
    order: int
    """The error falls as 1 / steps^order."""
    summary: str
    """One line for the settings reference."""
    reads: frozenset[str]
    """The fields of `SamplerOptions` that it reads."""
    calls_per_step: int
    """Network calls of one step."""
    stochastic: Callable[[SamplerOptions], bool]
    """Whether it adds fresh noise, so that a start does not determine its end."""
    variants: Mapping[str, SamplerOptions]
    """Options other than the defaults under which it is tested too, by label."""

    def __call__(
        self, state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel
    ) -> Tensor:
        """One step: z [B, C, T] at `here` -> z [B, C, T] at `there`."""
        return self.step(state, z, here, there)

    def network_calls(self, steps: int) -> int:
        """Network calls of a sample of `steps` >= 1 steps; the last step is a single estimate."""
        return self.calls_per_step * (steps - 1) + 1


def sampler_method(
    *,
    order: int,
    summary: str,
    reads: Iterable[str] = (),
    calls_per_step: int = 1,
    stochastic: Callable[[SamplerOptions], bool] = lambda _: False,
    variants: Mapping[str, SamplerOptions] | None = None,
) -> Callable[[Step], SamplerMethod]:
    """Declare a step function as a `SamplerMethod`; the arguments are its fields."""

    def declare(step: Step) -> SamplerMethod:
        return SamplerMethod(
            step, order, summary, frozenset(reads), calls_per_step, stochastic, variants or {}
        )

    return declare


@sampler_method(order=2, summary="best for few steps")
def dpmpp_2m(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, arXiv 2211.01095, algorithm 2 (lambda: log-SNR / 2)."""
    z_0 = state(z, here)
    h = 0.5 * (there.logsnr - here.logsnr)
    direction = z_0
    # The first step has no predecessor and is of first order. A single such step is off by h^2,
    # which leaves the whole walk at second order.
    if state.previous is not None:
        before, z_0_before = state.previous
        # Extrapolates z_0 along lambda to the middle of the step; r allows for unequal steps. The
        # paper has no limit on r. Towards the clean end steps grow but z_0 hardly changes any more,
        # so a line reaches too far: a last step with r = 0.2 alone made most of the error. As steps
        # of a smooth spacing grow by O(h^2), r >= 1 leaves the order at 2; equal and shrinking
        # steps are the paper's.
        r = max(1.0, 0.5 * (here.logsnr - before.logsnr) / h)
        direction = z_0 + (z_0 - z_0_before) / (2 * r)
    state.previous = (here, z_0)
    # expm1, because e^-h - 1 cancels when there are many steps.
    return there.sigma / here.sigma * z - there.alpha * math.expm1(-h) * direction


@sampler_method(order=2, summary="two network calls a step", calls_per_step=2)
def heun(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Karras et al. 2022, arXiv 2206.00364, algorithm 1: euler, then the mean of both slopes."""
    z_0 = state(z, here)
    guess = _move(z, z_0, here, there)
    # Their ODE has no alpha: its variables are x = z / alpha and s = sigma / alpha, and its slope
    # is (x - z_0) / s, here taken at both ends of the step.
    s_here, s_there = here.sigma / here.alpha, there.sigma / there.alpha
    first = (z / here.alpha - z_0) / s_here
    second = (guess / there.alpha - state(guess, there)) / s_there
    return there.alpha * (z / here.alpha + (s_there - s_here) * 0.5 * (first + second))


@sampler_method(order=1, summary="the same as ddim with eta 0")
def euler(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Karras et al. 2022, arXiv 2206.00364, algorithm 1, lines 3 to 5."""
    return _move(z, state(z, here), here, there)


@sampler_method(
    order=1,
    summary="an ODE, or ancestral with eta above 0",
    reads={"eta"},
    stochastic=lambda options: options.eta > 0,
    variants={"eta=1": SamplerOptions(eta=1.0)},
)
def ddim(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Song et al. 2020, arXiv 2010.02502, eq. 12 and 16; eta 0 is the ODE, 1 is ancestral."""
    z_0 = state(z, here)
    eps = (z - here.alpha * z_0) / here.sigma
    # Share of the present noise's variance that the posterior keeps; the rest may be fresh.
    kept = (here.alpha * there.sigma / (here.sigma * there.alpha)) ** 2
    fresh = state.options.eta * there.sigma * math.sqrt(1 - kept)
    # Old and fresh noise together have the variance that the level asks for.
    z = there.alpha * z_0 + math.sqrt(there.sigma**2 - fresh**2) * eps
    # Without fresh noise none is drawn, so that the ODE does not depend on the noise sampler.
    return z + fresh * state.noise_sampler() if fresh else z


@sampler_method(
    order=1,
    summary="ancestral, needs a hundred steps or more",
    reads={"variance"},
    stochastic=lambda _: True,
    variants={"beta": SamplerOptions(variance="beta")},
)
def ddpm(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7, between any two levels.

    Variance `posterior` is their beta-tilde, `beta` their beta (sec. 3.2).
    """
    z_0 = state(z, here)
    # Their alpha_t is ratio^2 here, of one step or of many at once, and beta is 1 - ratio^2. With
    # sigma^2 = 1 - alpha^2 put in, it keeps its digits at the clean end, where ratio is nearly 1.
    ratio = here.alpha / there.alpha
    beta = here.sigma**2 - ratio**2 * there.sigma**2
    mean = (ratio * there.sigma**2 * z + there.alpha * beta * z_0) / here.sigma**2
    posterior = beta * there.sigma**2 / here.sigma**2
    variance = beta if state.options.variance == "beta" else posterior
    return mean + math.sqrt(variance) * state.noise_sampler()


METHODS: dict[str, SamplerMethod] = {
    "dpmpp-2m": dpmpp_2m,
    "heun": heun,
    "euler": euler,
    "ddim": ddim,
    "ddpm": ddpm,
}
"""Sampling methods by their names in the settings."""


def _move(z: Tensor, z_0: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Move along the straight line that z_0 and its noise define, from one level to another."""
    eps = (z - here.alpha * z_0) / here.sigma
    return there.alpha * z_0 + there.sigma * eps
