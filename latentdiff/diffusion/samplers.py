"""From pure noise to latents: the driver that all sampling methods share.

Shapes: B batch, C latent channels, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import autoguided, guided
from latentdiff.diffusion.methods import METHODS, NoiseLevel, SamplerOptions, SamplerState
from latentdiff.diffusion.noise import NOISE_ONLY, Schedule
from latentdiff.diffusion.settings import SamplingConfig, Spacing
from latentdiff.specs import NO_CONDITION, Condition, Denoise

KARRAS_RHO = 7.0
"""Karras et al. 2022, arXiv 2206.00364, sec. 3: 5 to 10 give the best samples, they take 7."""

LOGISTIC_MEAN, LOGISTIC_SCALE = -2.0, 4.0
"""Of the distribution of log-SNR."""

REACH = 2.25
"""Scale of the distribution that the ends are taken from; see `_ends`. On two models of music, with
autoguidance, 48 samples by dpmpp-2m differ from those of 60 steps by (relative RMS) 0.33 and 0.50
at 2 steps, 0.14 and 0.20 at 4, 0.06 and 0.12 at 8; where levels went from end to end, by 0.53 and
0.64, 0.33 and 0.27, 0.09 and 0.12."""


@dataclass(frozen=True)
class Start:
    """Latents to start from instead of noise: SDEdit (Meng et al. 2022, arXiv 2108.01073)."""

    latents: Tensor
    """[B, C, T], clean."""
    strength: float
    """Share 0..1 of the steps that are taken. 0: the latents themselves; 1: pure noise at first, so
    nothing is left of them."""

    def pick(self, rows: Tensor) -> Start:
        """Some of the samples."""
        return replace(self, latents=self.latents[rows])


@torch.no_grad()
def sample(
    denoise: Denoise,
    schedule: Schedule,
    config: SamplingConfig,
    seeds: Sequence[int],
    channels: int,
    frames: int,
    condition: Condition = NO_CONDITION,
    device: torch.device | str = "cpu",
    variance: Tensor | None = None,
    after: Callable[[Tensor], Tensor] | None = None,
    start: Start | None = None,
    logsnrs: Sequence[float] | None = None,
) -> Tensor:
    """New latents [B, C, T], one per seed; a sample does not depend on the others in its batch.

    The same seed gives the same noise on every device. `condition` has one row per seed. `variance`
    [C] of the training latents (None: ones) is the baseline of autoguidance; `auto` means 1 here,
    as only a checkpoint knows a better value. `after` is applied to z_t after each step, including
    the last. `start`: what to vary; None: samples start from noise. `logsnrs`: rising noise
    levels to visit; None: those that the settings ask for. Raises ValueError for a seed outside
    0 .. 2^63 - 1.
    """
    # One generator per seed and not one per batch, so that neither the batch size nor the other
    # samples change a sample.
    noise = SeededNoise(seeds, channels, frames, device)
    model = guided(denoise, config.guidance, config.guidance_interval, config.guidance_rescale)
    scale = 1.0 if config.autoguidance == "auto" else config.autoguidance
    # Outside of classifier-free guidance: what it exaggerates is the guided estimate.
    model = autoguided(model, scale, config.autoguidance_interval, variance)
    state = SamplerState(model, condition, noise, SamplerOptions(config.eta, config.variance))
    logsnrs = logsnrs or make_logsnrs(schedule, config.steps, config.spacing)
    if start is None or start.strength >= 1:
        return integrate(state, noise(), logsnrs, config.sampler, after)
    taken = round(start.strength * len(logsnrs))
    latents = start.latents.to(device)
    if not taken:
        return latents
    first = NoiseLevel.at(logsnrs[-taken])
    noisy = first.alpha * latents + first.sigma * noise()
    return integrate(state, noisy, logsnrs[-taken:], config.sampler, after)


def integrate(
    state: SamplerState,
    z: Tensor,
    logsnrs: Sequence[float],
    sampler: str,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Walk z [B, C, T] along rising log-SNRs; returns the model's estimate at the last one.

    N levels are N - 1 steps of the method and a last network call, which removes the noise that is
    left.
    """
    z = walk(state, z, logsnrs, sampler, after)
    # At the last level there is no next one to walk to, and the estimate itself is what remains
    # when all noise is gone: without this call the samples would keep the noise of that level.
    z = state(z, NoiseLevel.at(logsnrs[-1]))
    return z if after is None else after(z)


def walk(
    state: SamplerState,
    z: Tensor,
    logsnrs: Sequence[float],
    sampler: str,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Walk z [B, C, T] along rising log-SNRs; returns z at the last one.

    N levels are N - 1 steps of the method.
    """
    method = METHODS[sampler]
    points = [NoiseLevel.at(logsnr) for logsnr in logsnrs]
    for here, there in pairwise(points):
        z = method(state, z, here, there)
        z = z if after is None else after(z)
    return z


def make_logsnrs(schedule: Schedule, steps: int, spacing: Spacing = "logistic") -> list[float]:
    """`steps` rising log-SNRs from the schedule's noisy end to its clean end; one: the noisy end.

    No noisier than NOISE_ONLY. Of a schedule that has one level only, a regression's: that one.
    logistic: at equally spaced quantiles of a logistic distribution, and from end to end only if
    there are many; one: its middle. logsnr: equally spaced. t: at equally spaced t of the schedule.
    karras: Karras et al. 2022, arXiv 2206.00364, eq. 5, rho 7, in sigma / alpha.
    """
    first, last = max(schedule.logsnr_min, NOISE_ONLY), schedule.logsnr_max
    # More levels would only repeat the same estimate.
    if first == last:
        return [first]
    if spacing == "logsnr":
        return _equal(first, last, steps).tolist()
    if spacing == "logistic":
        return logistic_logsnrs(*_ends(first, last, steps), steps)
    if spacing == "t":
        # Not t = 1: a schedule may end noisier than NOISE_ONLY, where nothing of the latents is
        # left and a step would only cost a network call.
        noisiest = float(schedule.t_of(torch.tensor(first, dtype=torch.float64)))
        return schedule(_equal(noisiest, 0.0, steps)).tolist()
    # sigma / alpha is exp(-log-SNR / 2), so its 1 / rho-th power is what they space equally.
    first, last = (math.exp(-0.5 * end / KARRAS_RHO) for end in (first, last))
    return (-2 * KARRAS_RHO * _equal(first, last, steps).log()).tolist()


def logistic_logsnrs(first: float, last: float, count: int) -> list[float]:
    """`count` log-SNRs from `first` to `last`, at equally spaced quantiles of a logistic
    distribution; one: `first`."""
    # Equal steps of the distribution function, then back through its inverse: the levels lie as
    # densely as the distribution has mass, and both ends are met exactly.
    low, high = (1 / (1 + math.exp((LOGISTIC_MEAN - x) / LOGISTIC_SCALE)) for x in (first, last))
    return (LOGISTIC_MEAN + LOGISTIC_SCALE * _equal(low, high, count).logit()).tolist()


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


def _ends(first: float, last: float, steps: int) -> tuple[float, float]:
    """Log-SNRs at which `steps` logistic levels begin and end, within those of a schedule.

    A call near an end is nearly wasted. At the noisy end the estimate is the mean, whatever the
    noise, so pure noise can stand for a level at which there is little else; at the clean end it is
    z_t itself, and the last call removes what noise is left anyway. So N levels reach from the
    1 / 2N to the 1 - 1 / 2N quantile of a logistic distribution: as N grows, from end to end.
    """
    middle = min(max(LOGISTIC_MEAN, first), last)
    reach = REACH * math.log(2 * steps - 1)
    return max(first, middle - reach), min(last, middle + reach)


def _equal(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first, last, steps, dtype=torch.float64)
