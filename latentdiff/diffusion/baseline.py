"""The losses of models that learned nothing, in closed form, to compare every loss with.

Each function gives the expected loss at each log-SNR of one denoiser that needs no training, under
the objective that is being minimised (parametrisation, weighting, mse, l1 or huber). Exact for
Gaussian latents; for others, `zero` and `variance_only` are still exact under mse.

Shapes: B noise levels, C latent channels, F frequencies of the full FFT of a window, T its frames.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import alpha_sigma

N = TypeVar("N", float, Tensor)


def skill(loss: N, baseline: N) -> N:
    """1 - loss / baseline. 1: perfect; 0: no better than the baseline; below 0: worse."""
    return 1 - loss / baseline


def zero(objective: Objective, logsnr: Tensor, variance: Tensor) -> Tensor:
    """[B]: predicts zero for the parametrisation's quantity. `variance` [C] of the latents."""
    return _expected(objective, logsnr, objective.power(logsnr, variance))


def variance_only(objective: Objective, logsnr: Tensor, variance: Tensor) -> Tensor:
    """[B]: the best denoiser that knows only the variance S [C] of each channel.

    z_0 = alpha S / (alpha^2 S + sigma^2) z_t has the error S sigma^2 / (alpha^2 S + sigma^2).
    """
    return spectrum_only(objective, logsnr, variance[:, None])


def spectrum_only(objective: Objective, logsnr: Tensor, spectrum: Tensor) -> Tensor:
    """[B]: the best denoiser that knows each channel's power spectrum [C, F], the Wiener filter.

    `spectrum` averages to the variance over F, as from `power_spectrum`. No linear model of single
    channels does better: a lower loss comes from other structure.
    """
    alpha, sigma = (x[:, None, None] for x in alpha_sigma(logsnr))
    # Frequencies of a stationary signal are independent: each is a channel of `variance_only`.
    error = (spectrum * sigma**2 / (alpha**2 * spectrum + sigma**2)).mean(dim=-1)
    return _expected(objective, logsnr, error / objective.scale(logsnr)[:, None] ** 2)


def power_spectrum(windows: Tensor) -> Tensor:
    """[windows, C, T] -> [C, T]: mean periodogram, whose average over F is the mean square."""
    spectrum: Tensor = torch.fft.fft(windows).abs().square().mean(dim=0)
    return spectrum / windows.shape[-1]


def _expected(objective: Objective, logsnr: Tensor, square: Tensor) -> Tensor:
    """Weighted expected loss [B] of Gaussian errors of mean square [B, C], averaged over C."""
    if objective.kind == "mse":
        loss = square
    elif objective.kind == "l1":
        # E|e| of a Gaussian, for which the mean square alone would not do.
        loss = square.sqrt() * math.sqrt(2 / math.pi)
    else:
        loss = _expected_huber(square.sqrt(), objective.huber_delta)
    return loss.mean(dim=1) * objective.weight(logsnr)


def _expected_huber(deviation: Tensor, delta: float) -> Tensor:
    """E[huber(e)] of Gaussian e: second moment inside delta, first absolute moment outside.

    With c = delta / deviation, phi the normal density and P = P(|e| < delta): E[e^2; inside] =
    deviation^2 (P - 2 c phi(c)), E[|e|; outside] = 2 deviation phi(c).
    """
    # A deviation of 0 makes c infinite, and both terms come out right: 0.
    cut = delta / deviation.clamp(min=1e-30)
    density = torch.exp(-0.5 * cut**2) / math.sqrt(2 * math.pi)
    inside = torch.erf(cut / math.sqrt(2))
    quadratic = 0.5 * deviation**2 * (inside - 2 * cut * density)
    linear = delta * (2 * deviation * density - 0.5 * delta * (1 - inside))
    return quadratic + linear
