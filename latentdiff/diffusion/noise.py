"""The one axis of noise, log-SNR, and the schedules that walk along it.

Noisy latents are z_t = alpha * z_0 + sigma * eps with alpha^2 + sigma^2 = 1 and
log-SNR = ln(alpha^2 / sigma^2): large is clean, small is noisy. A schedule maps t in 0..1 to it,
falling; a discrete chain of N betas is one of them, its steps joined by straight lines.

Shapes: B batch, N steps of a chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion.settings import DiffusionConfig, ScheduleConfig

CHAINS = {
    # DDPM: Ho et al. 2020, arXiv 2006.11239, sec. 4.
    "linear-ddpm": (1e-4, 0.02, 1000),
    # DiffWave: Kong et al. 2020, arXiv 2009.09761, table 1.
    "diffwave": (1e-4, 0.05, 50),
    # The end points AudioLDM gives (arXiv 2301.12503), equally spaced in beta as they are commonly
    # used; latent-diffusion code spaces their square roots, which ends less noisy.
    "audioldm": (0.0015, 0.0195, 1000),
}
CHAIN_LIMIT = 40.0
"""|log-SNR| of a chain is cut here: a last beta of 1 would be minus infinity."""

TERMINAL_LIMIT = -6.0
"""A schedule that ends above this log-SNR (5 % of the signal left) has not reached pure noise."""

NOISE_ONLY = -12.0
"""log-SNR that counts as pure noise: a quarter of a percent of the latents is left."""

EDM_MEAN, EDM_STD = -1.2 - math.log(0.5), 1.2
"""Karras et al. 2022, arXiv 2206.00364, table 1: ln(sigma) is normal with mean -1.2 and deviation
1.2 for data of deviation 0.5; latents here have deviation 1."""

VISITED = 1000
"""Levels of a continuous schedule over which a mean is taken."""

GAIN_LIMIT = 1e3
"""Above this gain a schedule dwells where nothing is left of the latents."""


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise scale at a log-SNR of any shape; exact at both ends."""
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


@dataclass(frozen=True)
class Schedule:
    """A falling map from t in 0..1 (clean..noisy) to log-SNR, and its inverse."""

    name: str
    logsnr_of: Callable[[Tensor], Tensor]
    t_of: Callable[[Tensor], Tensor]
    """log-SNR -> t in 0..1."""
    steps: int | None = None
    """Length of a chain; None of a continuous schedule."""

    def __call__(self, t: Tensor) -> Tensor:
        """t in 0..1 -> log-SNR, same shape."""
        return self.logsnr_of(t)

    def visited(self) -> Tensor:
        """[N] log-SNRs that training visits equally often: a chain's steps, or evenly spread t."""
        if self.steps is not None:
            return self(torch.linspace(0, 1, self.steps, dtype=torch.float64))
        return self((torch.arange(VISITED, dtype=torch.float64) + 0.5) / VISITED)

    @property
    def logsnr_max(self) -> float:
        return float(self(torch.zeros(1, dtype=torch.float64)))

    @property
    def logsnr_min(self) -> float:
        """The terminal log-SNR: how noisy the noisiest training example is."""
        return float(self(torch.ones(1, dtype=torch.float64)))

    @property
    def gain(self) -> float:
        """1 / alpha at the noisy end, 1 / sqrt(abar_T) of a chain.

        An error of the predicted noise there is multiplied by this on its way into the latents.
        """
        return math.sqrt(1 + math.exp(-self.logsnr_min))

    @property
    def warnings(self) -> list[str]:
        """What is wrong with this schedule, in words; empty where nothing is."""
        found = []
        if self.logsnr_min > TERMINAL_LIMIT:
            left = 100 / self.gain
            found.append(
                f"schedule {self.name} never reaches pure noise: {left:.2g} % of the signal is "
                "left at its end, but sampling starts from pure noise; expect a wrong level"
            )
        if self.gain > GAIN_LIMIT:
            found.append(
                f"schedule {self.name} multiplies errors of the predicted noise by {self.gain:.2g} "
                "on the way to the latents; levels this noisy teach nothing"
            )
        return found


def schedule_of(config: DiffusionConfig) -> Schedule:
    """The schedule of a diffusion; of a regression the one that is at its noisy end always."""
    return SILENCE if config.parametrisation == "regression" else build(config.schedule)


def build(config: ScheduleConfig) -> Schedule:
    """The schedule that a config names."""
    if config.name == "betas":
        start, end, steps = config.beta_start, config.beta_end, config.beta_steps
        return chain(f"betas {start:g}..{end:g} ({steps})", linear_betas(start, end, steps))
    if config.name in CHAINS:
        return chain(config.name, linear_betas(*CHAINS[config.name]))
    curve, inverse = _CURVES[config.name]
    return _between(config, curve, inverse)


SILENCE = Schedule(
    "pure noise", lambda t: torch.full_like(t, NOISE_ONLY), lambda logsnr: torch.ones_like(logsnr)
)
"""Of a regression, which sees no latents at all."""


def linear_betas(start: float, end: float, steps: int) -> Tensor:
    """[N] equally spaced betas, float64."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def chain_logsnr(betas: Tensor) -> Tensor:
    """[N] log-SNR after each step of a discrete chain: abar = cumprod(1 - beta)."""
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

    Each is uniform by itself, together they cover the whole range: the loss of a batch varies far
    less than with independent ones (VDM, Kingma et al. 2021, arXiv 2107.00630, app. I.1, which
    shares one offset; here each interval has its own). Drawn on the generator's device.
    """
    source = "cpu" if generator is None else generator.device
    jitter = torch.rand(batch, generator=generator, device=source)
    order = torch.randperm(batch, generator=generator, device=source)
    return ((order + jitter) / batch).clamp(max=1.0).to(device)


def _between(
    config: ScheduleConfig,
    curve: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
) -> Schedule:
    """A curve over 0..1, shifted, and cut to the part between the configured limits.

    Only t is stretched (Hoogeboom et al. 2023, arXiv 2301.11093, app. A): how often a level is
    visited relative to another does not change, levels outside are not visited at all.
    """
    limits = torch.tensor([config.logsnr_max, config.logsnr_min], dtype=torch.float64)
    first, last = inverse(limits - config.shift).tolist()

    def logsnr_of(t: Tensor) -> Tensor:
        # float64, because the curves are steep at both ends.
        logsnr = curve(first + (last - first) * t.double()) + config.shift
        return logsnr.clamp(config.logsnr_min, config.logsnr_max).to(t.dtype)

    def t_of(logsnr: Tensor) -> Tensor:
        return ((inverse(logsnr.double() - config.shift) - first) / (last - first)).to(logsnr.dtype)

    return Schedule(config.name, logsnr_of, t_of)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Straight lines through (knots, values), knots rising; the ends are held."""
    knots, values = knots.to(x.device), values.to(x.device)
    inside = x.double().clamp(knots[0], knots[-1])
    right = torch.searchsorted(knots, inside.contiguous()).clamp(1, len(knots) - 1)
    left = right - 1
    share = (inside - knots[left]) / (knots[right] - knots[left]).clamp(min=1e-30)
    return torch.lerp(values[left], values[right], share).to(x.dtype)


def _cosine(t: Tensor) -> Tensor:
    """Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17, no offset: alpha = cos(pi t / 2)."""
    return -2 * torch.log(torch.tan(math.pi / 2 * t))


def _cosine_inverse(logsnr: Tensor) -> Tensor:
    return 2 / math.pi * torch.atan(torch.exp(-0.5 * logsnr))


def _flow(t: Tensor) -> Tensor:
    """The straight path (1 - t) z_0 + t eps of Liu et al. 2022, arXiv 2209.03003, and Lipman et al.

    The same levels as on that path; z_t itself keeps alpha^2 + sigma^2 = 1 like everywhere here.
    """
    return 2 * torch.log1p(-t) - 2 * torch.log(t)


def _flow_inverse(logsnr: Tensor) -> Tensor:
    return torch.sigmoid(-0.5 * logsnr)


_SIGMOID_ENDS = torch.sigmoid(torch.tensor([-3.0, 3.0], dtype=torch.float64)).tolist()


def _sigmoid(t: Tensor) -> Tensor:
    """Jabri et al. 2022, arXiv 2212.11972, algorithm 2: start -3, end 3, tau 1."""
    low, high = _SIGMOID_ENDS
    return torch.logit((high - torch.sigmoid(6 * t - 3)) / (high - low))


def _sigmoid_inverse(logsnr: Tensor) -> Tensor:
    low, high = _SIGMOID_ENDS
    return (torch.logit(high - torch.sigmoid(logsnr) * (high - low)) + 3) / 6


def _laplace(t: Tensor) -> Tensor:
    """Hang et al. 2024, arXiv 2407.03297, table 1: mu 0, b 0.5; dwells where SNR is near 1."""
    return 0.5 * torch.where(t < 0.5, -torch.log(2 * t), torch.log(2 - 2 * t))


def _laplace_inverse(logsnr: Tensor) -> Tensor:
    tail = 0.5 * torch.exp(-2 * logsnr.abs())
    return torch.where(logsnr > 0, tail, 1 - tail)


def _edm(t: Tensor) -> Tensor:
    return -2 * (EDM_MEAN + EDM_STD * torch.special.ndtri(t))


def _edm_inverse(logsnr: Tensor) -> Tensor:
    return torch.special.ndtr((-0.5 * logsnr - EDM_MEAN) / EDM_STD)


_CURVES = {
    "cosine": (_cosine, _cosine_inverse),
    "sigmoid": (_sigmoid, _sigmoid_inverse),
    "flow": (_flow, _flow_inverse),
    "laplace": (_laplace, _laplace_inverse),
    "edm": (_edm, _edm_inverse),
}
