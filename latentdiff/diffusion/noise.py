"""The noise axis, log-SNR, and schedules along it.

Noisy latents are z_t = alpha * z_0 + sigma * eps with alpha^2 + sigma^2 = 1 and
log-SNR = ln(alpha^2 / sigma^2): large is clean, small is noisy. A schedule maps t in 0..1 to
falling log-SNRs; a discrete chain of N betas is a schedule too, interpolated linearly.

Shapes: B batch, N steps of a chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion.schedules import SCHEDULES, Curve
from latentdiff.diffusion.settings import DiffusionConfig, ScheduleConfig

CHAIN_LIMIT = 40.0
"""|log-SNR| of a chain is clamped to this: a last beta of 1 would give minus infinity."""

TERMINAL_LIMIT = -6.0
"""A schedule that ends above this log-SNR does not reach pure noise: 5 % of the signal is left."""

NOISE_ONLY = -12.0
"""log-SNR that counts as pure noise: alpha is a quarter of a percent."""

VISITED = 1000
"""Levels of a continuous schedule over which means are taken."""

GAIN_LIMIT = 1e3
"""Schedules with a larger gain are warned about: they spend steps where no signal is left."""


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise scale at a log-SNR of any shape.

    sigma from sigmoid(-x), not from 1 - alpha^2, which would cancel at the clean end.
    """
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


@dataclass(frozen=True)
class Schedule:
    """A falling map from t in 0..1 (clean..noisy) to log-SNR, and its inverse."""

    name: str
    logsnr_of: Callable[[Tensor], Tensor]
    """t in 0..1 -> log-SNR."""
    t_of: Callable[[Tensor], Tensor]
    """log-SNR -> t in 0..1."""
    steps: int | None = None
    """Number of steps of a chain; None: continuous."""

    def __call__(self, t: Tensor) -> Tensor:
        """t in 0..1 -> log-SNR, same shape."""
        return self.logsnr_of(t)

    def visited(self) -> Tensor:
        """[N] log-SNRs that training visits equally often: a chain's steps, or equally spaced t."""
        if self.steps is not None:
            return self(torch.linspace(0, 1, self.steps, dtype=torch.float64))
        return self((torch.arange(VISITED, dtype=torch.float64) + 0.5) / VISITED)

    @property
    def logsnr_max(self) -> float:
        """The log-SNR of the cleanest training example."""
        return float(self(torch.zeros(1, dtype=torch.float64)))

    @property
    def logsnr_min(self) -> float:
        """The terminal log-SNR, that of the noisiest training example."""
        return float(self(torch.ones(1, dtype=torch.float64)))

    @property
    def gain(self) -> float:
        """1 / alpha at the noisy end; 1 / sqrt(abar_T) of a chain.

        The factor by which an error of the predicted noise there enters the latents.
        """
        return math.sqrt(1 + math.exp(-self.logsnr_min))

    @property
    def warnings(self) -> list[str]:
        """Problems of this schedule, in words; usually empty."""
        problems = []
        if self.logsnr_min > TERMINAL_LIMIT:
            left = 100 / self.gain
            problems.append(
                f"schedule {self.name} never reaches pure noise: {left:.2g} % of the signal is "
                "left at its end, but sampling starts from pure noise; expect samples of the "
                "wrong level"
            )
        if self.gain > GAIN_LIMIT:
            problems.append(
                f"schedule {self.name} multiplies errors of the predicted noise by {self.gain:.2g} "
                "on the way to the latents; levels this noisy teach nothing"
            )
        return problems


def schedule_of(config: DiffusionConfig) -> Schedule:
    """The schedule of a diffusion; of a regression, pure noise at every t."""
    return SILENCE if config.parametrisation == "regression" else build(config.schedule)


def build(config: ScheduleConfig) -> Schedule:
    """The schedule that the settings name."""
    entry = SCHEDULES[config.name]
    if isinstance(entry, Curve):
        return _between(config, entry)
    if entry.betas is not None:
        return chain(config.name, linear_betas(*entry.betas))
    start, end, steps = config.beta_start, config.beta_end, config.beta_steps
    return chain(f"{config.name} {start:g}..{end:g} ({steps})", linear_betas(start, end, steps))


SILENCE = Schedule(
    "pure noise", lambda t: torch.full_like(t, NOISE_ONLY), lambda logsnr: torch.ones_like(logsnr)
)
"""The schedule of a regression: its network never sees latents."""


def linear_betas(start: float, end: float, steps: int) -> Tensor:
    """[N] equally spaced betas, float64."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def chain_logsnr(betas: Tensor) -> Tensor:
    """[N] log-SNR after each step of a discrete chain: abar = cumprod(1 - beta)."""
    # In logarithms and float64: abar itself vanishes after some thousand steps, and 1 - abar of
    # the first step is a small difference.
    log_abar = torch.log1p(-betas.double()).cumsum(0)
    return (log_abar - torch.log(-torch.expm1(log_abar))).clamp(-CHAIN_LIMIT, CHAIN_LIMIT)


def chain(name: str, betas: Tensor) -> Schedule:
    """A discrete chain of N >= 2 betas as a schedule: step n of 0..N-1 lies at t = n / (N - 1)."""
    knots = chain_logsnr(betas)
    t = torch.linspace(0, 1, len(knots), dtype=torch.float64)
    return Schedule(
        name,
        lambda x: _interpolate(x, t, knots),
        lambda x: _interpolate(x, knots.flip(0), t.flip(0)),
        len(knots),
    )


def stratified(
    batch: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """[B] values in 0..1, one in each of B equal intervals, in random order.

    Each value is uniform, and together they cover the whole range, so that the loss of a batch
    varies far less than with independent values (VDM, Kingma et al. 2021, arXiv 2107.00630, app.
    I.1; they share one offset, here each interval has its own). Drawn on the generator's device.
    """
    source = "cpu" if generator is None else generator.device
    jitter = torch.rand(batch, generator=generator, device=source)
    # Neighbours in a batch would have neighbouring levels otherwise.
    order = torch.randperm(batch, generator=generator, device=source)
    return ((order + jitter) / batch).clamp(max=1.0).to(device)


def _between(config: ScheduleConfig, curve: Curve) -> Schedule:
    """The curve, shifted, and limited to the part between the configured log-SNRs.

    t is rescaled (Hoogeboom et al. 2023, arXiv 2301.11093, app. A): the relative frequencies of the
    levels do not change, and levels outside are not visited.
    """
    limits = torch.tensor([config.logsnr_max, config.logsnr_min], dtype=torch.float64)
    first, last = curve.t_of(limits - config.shift).tolist()

    def logsnr_of(t: Tensor) -> Tensor:
        # float64, because the curves are steep at both ends.
        logsnr = curve.logsnr_of(first + (last - first) * t.double()) + config.shift
        return logsnr.clamp(config.logsnr_min, config.logsnr_max).to(t.dtype)

    def t_of(logsnr: Tensor) -> Tensor:
        t: Tensor = (curve.t_of(logsnr.double() - config.shift) - first) / (last - first)
        return t.to(logsnr.dtype)

    return Schedule(config.name, logsnr_of, t_of)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation of (knots, values), knots rising; constant beyond the ends."""
    knots, values = knots.to(x.device), values.to(x.device)
    inside = x.double().clamp(knots[0], knots[-1])
    right = torch.searchsorted(knots, inside.contiguous()).clamp(1, len(knots) - 1)
    left = right - 1
    # Knots coincide where a chain is clamped to CHAIN_LIMIT.
    share = (inside - knots[left]) / (knots[right] - knots[left]).clamp(min=1e-30)
    return torch.lerp(values[left], values[right], share).to(x.dtype)
