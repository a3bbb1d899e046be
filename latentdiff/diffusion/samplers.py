"""From pure noise to latents: one driver, one function a method.

A method is one step from a noisier level to a cleaner one and sees the model only through
`denoise`, so none of them knows what the network puts out.

Shapes: B batch, C latent channels, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import autoguided, guided
from latentdiff.diffusion.noise import NOISE_ONLY, Schedule
from latentdiff.diffusion.settings import SamplingConfig, Spacing
from latentdiff.specs import Condition, Denoise

KARRAS_RHO = 7.0

LOGISTIC_MEAN, LOGISTIC_SCALE = -3.0, 2.5
"""Of the log-SNR. Of an unconditional model of music these came nearest to 120 steps among means
from -4 to -2 and scales from 1.5 to 3.5: 16 steps are 0.13 (relative RMS) from it, and 0.23 where
they are equally spaced in log-SNR."""


class NoiseLevel(NamedTuple):
    """A point on the noise axis."""

    logsnr: float
    alpha: float
    sigma: float

    @classmethod
    def at(cls, logsnr: float) -> NoiseLevel:
        return cls(logsnr, (1 + math.exp(-logsnr)) ** -0.5, (1 + math.exp(logsnr)) ** -0.5)


class Progress(NamedTuple):
    """What a callback is shown after each step."""

    step: int
    """1, 2, ... `steps`."""
    steps: int
    logsnr: float
    """NoiseLevel of `z_t`."""
    z_t: Tensor
    """[B, C, T], what the step started from."""
    z_0: Tensor
    """[B, C, T], the model's estimate there."""


@dataclass
class SamplerState:
    """What the steps of one run share: the model, its condition, fresh noise, the last estimate."""

    denoise: Denoise
    condition: Condition
    noise_sampler: Callable[[], Tensor]
    """White noise [B, C, T], new at each call."""
    eta: float = 0.0
    variance: str = "posterior"
    previous: tuple[NoiseLevel, Tensor] | None = field(default=None, init=False)
    """NoiseLevel and estimate of the step before, for multistep methods."""
    seen: Tensor | None = field(default=None, init=False)
    """First estimate of the current step, for the callback."""

    def __call__(self, z: Tensor, level: NoiseLevel) -> Tensor:
        """The model's z_0 [B, C, T] for z at a level."""
        logsnr = torch.full((len(z),), level.logsnr, device=z.device, dtype=torch.float32)
        z_0 = self.denoise(z, logsnr, self.condition)
        self.seen = z_0 if self.seen is None else self.seen
        return z_0


def ddim(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Song et al. 2020, arXiv 2010.02502, eq. 12 and 16; eta 0 is the ODE, 1 is ancestral."""
    z_0 = state(z, here)
    eps = (z - here.alpha * z_0) / here.sigma
    kept = (here.alpha * there.sigma / (here.sigma * there.alpha)) ** 2
    fresh = state.eta * there.sigma * math.sqrt(1 - kept)
    z = there.alpha * z_0 + math.sqrt(there.sigma**2 - fresh**2) * eps
    return z + fresh * state.noise_sampler() if fresh else z


def ddpm(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7, between any two levels.

    Variance `posterior` is their beta-tilde, `beta` their beta (sec. 3.2).
    """
    z_0 = state(z, here)
    ratio = here.alpha / there.alpha
    beta = here.sigma**2 - ratio**2 * there.sigma**2
    mean = (ratio * there.sigma**2 * z + there.alpha * beta * z_0) / here.sigma**2
    posterior = beta * there.sigma**2 / here.sigma**2
    variance = beta if state.variance == "beta" else posterior
    return mean + math.sqrt(variance) * state.noise_sampler()


def euler(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Karras et al. 2022, arXiv 2206.00364, algorithm 1, lines 3 to 5; the same as ddim, eta 0."""
    return _move(z, state(z, here), here, there)


def heun(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Karras et al. 2022, arXiv 2206.00364, algorithm 1: euler, then the mean of both slopes."""
    z_0 = state(z, here)
    guess = _move(z, z_0, here, there)
    # The slope (x - z_0) / s with x = z / alpha and s = sigma / alpha, at both ends.
    s_here, s_there = here.sigma / here.alpha, there.sigma / there.alpha
    first = (z / here.alpha - z_0) / s_here
    second = (guess / there.alpha - state(guess, there)) / s_there
    return there.alpha * (z / here.alpha + (s_there - s_here) * 0.5 * (first + second))


def dpmpp_2m(state: SamplerState, z: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, arXiv 2211.01095, algorithm 2 (lambda: log-SNR / 2)."""
    z_0 = state(z, here)
    h = 0.5 * (there.logsnr - here.logsnr)
    direction = z_0
    if state.previous is not None:
        before, z_0_before = state.previous
        r = 0.5 * (here.logsnr - before.logsnr) / h
        direction = z_0 + (z_0 - z_0_before) / (2 * r)
    state.previous = (here, z_0)
    return there.sigma / here.sigma * z - there.alpha * math.expm1(-h) * direction


Method = Callable[[SamplerState, Tensor, NoiseLevel, NoiseLevel], Tensor]
METHODS: dict[str, Method] = {
    "dpmpp-2m": dpmpp_2m,
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "heun": heun,
}


@torch.no_grad()
def sample(
    denoise: Denoise,
    schedule: Schedule,
    config: SamplingConfig,
    seeds: Sequence[int],
    channels: int,
    frames: int,
    condition: Condition = Condition(),  # noqa: B008 (immutable)
    device: torch.device | str = "cpu",
    callback: Callable[[Progress], None] | None = None,
    variance: Tensor | None = None,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """New latents [B, C, T], one for each seed; a sample does not depend on those beside it.

    The same seed gives the same noise on every device. `condition` has one row a seed. `variance`
    [C] of the training latents (None: ones) is what autoguidance leads away from; `auto` is 1 here,
    as only a checkpoint can say better. `after`: what becomes of z_t after each step, the last too.
    """
    noise = SeededNoise(seeds, channels, frames, device)
    model = guided(denoise, config.guidance, config.guidance_interval, config.guidance_rescale)
    exaggeration = 1.0 if config.autoguidance == "auto" else config.autoguidance
    model = autoguided(model, exaggeration, config.autoguidance_interval, variance)
    state = SamplerState(model, condition, noise, config.eta, config.variance)
    logsnrs = make_logsnrs(schedule, config.steps, config.spacing)
    return integrate(state, noise(), logsnrs, config.sampler, callback, after)


def integrate(
    state: SamplerState,
    z: Tensor,
    logsnrs: Sequence[float],
    sampler: str,
    callback: Callable[[Progress], None] | None = None,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Walk z [B, C, T] along rising log-SNRs and return the model's estimate at the last one.

    So N levels are N - 1 steps of the method and one last call that removes what noise is left.
    """
    method = METHODS[sampler]
    points = [NoiseLevel.at(logsnr) for logsnr in logsnrs]
    for step, here in enumerate(points):
        state.seen = None
        last = step == len(points) - 1
        there = state(z, here) if last else method(state, z, here, points[step + 1])
        if callback is not None:
            assert state.seen is not None
            callback(Progress(step + 1, len(points), here.logsnr, z, state.seen))
        z = there if after is None else after(there)
    return z


def make_logsnrs(schedule: Schedule, steps: int, spacing: Spacing = "logistic") -> list[float]:
    """`steps` rising log-SNRs from the schedule's noisy end to its clean end; one: the noisy end.

    No noisier than NOISE_ONLY. Of a schedule that has one level only, a regression's: that one.
    logistic: at equally spaced quantiles of a logistic distribution. logsnr: equally spaced. t: at
    equally spaced t of the schedule. karras: Karras et al. 2022, arXiv 2206.00364, eq. 5, rho 7, in
    sigma / alpha.
    """
    first, last = max(schedule.logsnr_min, NOISE_ONLY), schedule.logsnr_max
    if first == last:
        return [first]
    if spacing == "logsnr":
        return _equal(first, last, steps).tolist()
    if spacing == "logistic":
        first, last = (
            1 / (1 + math.exp((LOGISTIC_MEAN - x) / LOGISTIC_SCALE)) for x in (first, last)
        )
        return (LOGISTIC_MEAN + LOGISTIC_SCALE * _equal(first, last, steps).logit()).tolist()
    if spacing == "t":
        noisiest = float(schedule.t_of(torch.tensor(first, dtype=torch.float64)))
        return schedule(_equal(noisiest, 0.0, steps)).tolist()
    first, last = (math.exp(-0.5 * end / KARRAS_RHO) for end in (first, last))
    return (-2 * KARRAS_RHO * _equal(first, last, steps).log()).tolist()


class SeededNoise:
    """White noise [B, C, T], each sample from its own seed, drawn on the CPU.

    Raises ValueError for a seed outside 0 .. 2^63 - 1.
    """

    def __init__(
        self, seeds: Sequence[int], channels: int, frames: int, device: torch.device | str = "cpu"
    ) -> None:
        if not all(0 <= seed < 2**63 for seed in seeds):
            raise ValueError("seeds must lie between 0 and 2^63 - 1")
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape, self._device = (channels, frames), device

    def __call__(self) -> Tensor:
        draws = [torch.randn(self._shape, generator=g) for g in self._generators]
        return torch.stack(draws).to(self._device)


def _move(z: Tensor, z_0: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """From one level to another along the straight line that z_0 and its noise define."""
    eps = (z - here.alpha * z_0) / here.sigma
    return there.alpha * z_0 + there.sigma * eps


def _equal(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first, last, steps, dtype=torch.float64)
