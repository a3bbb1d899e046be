"""The named schedules: each a falling map from t in 0..1 (clean..noisy) to log-SNR.

`noise.build` makes a `Schedule` of an entry and the settings. A new one is a line in SCHEDULES
and, for a curve, its two functions here.

Reading the settings must not import torch, hence neither does this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EDM_MEAN, EDM_STD = -1.2 - math.log(0.5), 1.2
"""Karras et al. 2022, arXiv 2206.00364, table 1: ln(sigma) is normal with mean -1.2 and deviation
1.2 for data of deviation 0.5; latents here have deviation 1."""


@dataclass(frozen=True)
class Curve:
    """A continuous schedule, from t = 0 at log-SNR +inf to t = 1 at -inf."""

    logsnr_of: Callable[[Tensor], Tensor]
    """t -> log-SNR, of the same shape."""
    t_of: Callable[[Tensor], Tensor]
    """Inverse of the curve."""
    summary: str
    """One line for the settings reference."""
    source: str
    reads: frozenset[str] = frozenset({"logsnr_max", "logsnr_min", "shift"})
    """The fields of `ScheduleConfig` that it reads."""


@dataclass(frozen=True)
class Chain:
    """A discrete chain of equally spaced betas."""

    betas: tuple[float, float, int] | None
    """First, last, how many; None: as the settings say."""
    source: str

    @property
    def summary(self) -> str:
        """One line for the settings reference."""
        if self.betas is None:
            return "a chain of your own, from beta_start, beta_end and beta_steps"
        first, last, count = self.betas
        return f"a chain of {count} betas, {first:g}..{last:g}"

    @property
    def reads(self) -> frozenset[str]:
        """The fields of `ScheduleConfig` that it reads."""
        own = {"beta_start", "beta_end", "beta_steps"}
        return frozenset(own if self.betas is None else ())


def _cosine(t: Tensor) -> Tensor:
    """Eq. 17 without its offset: alpha = cos(pi t / 2)."""
    return -2 * (math.pi / 2 * t).tan().log()


def _cosine_inverse(logsnr: Tensor) -> Tensor:
    return 2 / math.pi * (-0.5 * logsnr).exp().atan()


def _flow(t: Tensor) -> Tensor:
    """The levels of the straight path (1 - t) z_0 + t eps.

    z_t itself keeps alpha^2 + sigma^2 = 1, as everywhere here.
    """
    return 2 * (-t).log1p() - 2 * t.log()


def _flow_inverse(logsnr: Tensor) -> Tensor:
    return (-0.5 * logsnr).sigmoid()


_SIGMOID_LOW, _SIGMOID_HIGH = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
"""sigmoid(start) and sigmoid(end) of start -3, end 3."""


def _sigmoid(t: Tensor) -> Tensor:
    """Algorithm 2 with start -3, end 3, tau 1."""
    return ((_SIGMOID_HIGH - (6 * t - 3).sigmoid()) / (_SIGMOID_HIGH - _SIGMOID_LOW)).logit()


def _sigmoid_inverse(logsnr: Tensor) -> Tensor:
    span = _SIGMOID_HIGH - _SIGMOID_LOW
    return ((_SIGMOID_HIGH - logsnr.sigmoid() * span).logit() + 3) / 6


def _laplace(t: Tensor) -> Tensor:
    """Table 1 with mu 0, b 0.5: most levels near SNR 1."""
    # Each tail by its own logarithm, which is exact where the other would cancel.
    return 0.5 * (-(2 * t).log()).where(t < 0.5, (2 - 2 * t).log())


def _laplace_inverse(logsnr: Tensor) -> Tensor:
    tail = 0.5 * (-2 * logsnr.abs()).exp()
    return tail.where(logsnr > 0, 1 - tail)


def _edm(t: Tensor) -> Tensor:
    """Table 1: t is the quantile of a normal ln(sigma) = -log-SNR / 2."""
    import torch

    log_sigma: Tensor = EDM_MEAN + EDM_STD * torch.special.ndtri(t)
    return -2 * log_sigma


def _edm_inverse(logsnr: Tensor) -> Tensor:
    import torch

    share: Tensor = torch.special.ndtr((-0.5 * logsnr - EDM_MEAN) / EDM_STD)
    return share


SCHEDULES: dict[str, Curve | Chain] = {
    "cosine": Curve(
        _cosine, _cosine_inverse, "continuous", "Nichol and Dhariwal 2021, arXiv 2102.09672"
    ),
    "sigmoid": Curve(
        _sigmoid, _sigmoid_inverse, "continuous", "Jabri et al. 2022, arXiv 2212.11972"
    ),
    "flow": Curve(
        _flow,
        _flow_inverse,
        "continuous, the levels of a straight path",
        "Liu et al. 2022, arXiv 2209.03003",
    ),
    "laplace": Curve(
        _laplace,
        _laplace_inverse,
        "continuous, most levels near SNR 1",
        "Hang et al. 2024, arXiv 2407.03297",
    ),
    "edm": Curve(
        _edm,
        _edm_inverse,
        "continuous, ln(sigma) is normal",
        "Karras et al. 2022, arXiv 2206.00364",
    ),
    # Sec. 4.
    "linear-ddpm": Chain((1e-4, 0.02, 1000), "Ho et al. 2020, arXiv 2006.11239"),
    # Table 1.
    "diffwave": Chain((1e-4, 0.05, 50), "Kong et al. 2020, arXiv 2009.09761"),
    # The end points that AudioLDM gives, equally spaced in beta as they are commonly used;
    # latent-diffusion code spaces their square roots, which ends less noisy.
    "audioldm": Chain((0.0015, 0.0195, 1000), "Liu et al. 2023, arXiv 2301.12503"),
    "betas": Chain(None, "the settings"),
}
"""Schedules by their names in the settings."""
