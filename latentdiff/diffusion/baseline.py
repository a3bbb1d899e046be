"""What a model that learned nothing would score: closed forms to set every loss beside.

Each function gives the expected loss, at each log-SNR, of one denoiser that needs no training, in
the very objective that is minimised (parametrisation, weighting, mse, l1 or huber). Exact for
Gaussian latents; for others `zero` and `variance` stay exact under mse.

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
    """1 - loss / baseline. 0: learned nothing, 1: perfect, below 0: worse than knowing nothing."""
    return 1 - loss / baseline


def zero(objective: Objective, logsnr: Tensor, variance: Tensor) -> Tensor:
    """[B]: predicting zero for the parametrisation's quantity. `variance` [C] of the latents."""
    return _expected(objective, logsnr, objective.power(logsnr, variance))


def variance_only(objective: Objective, logsnr: Tensor, variance: Tensor) -> Tensor:
    """[B]: the best denoiser that knows only the variance [C] of each channel.

    z_0 = alpha S / (alpha^2 S + sigma^2) z_t leaves an error of S sigma^2 / (alpha^2 S + sigma^2).
    """
    return spectrum_only(objective, logsnr, variance[:, None])


def spectrum_only(objective: Objective, logsnr: Tensor, spectrum: Tensor) -> Tensor:
    """[B]: the best that knows each channel's power spectrum [C, F], the Wiener filter.

    `spectrum` averages to the variance over F (`power_spectrum` gives it so). What no linear,
    channel by channel model can do better: skill above this one comes from structure.
    """
    alpha, sigma = (x[:, None, None] for x in alpha_sigma(logsnr))
    error = (spectrum * sigma**2 / (alpha**2 * spectrum + sigma**2)).mean(dim=-1)
    return _expected(objective, logsnr, error / objective.scale(logsnr)[:, None] ** 2)


def power_spectrum(windows: Tensor) -> Tensor:
    """[windows, C, T] -> [C, T]: mean periodogram, averaging over F to the mean square."""
    return torch.fft.fft(windows).abs().square().mean(dim=0) / windows.shape[-1]


def _expected(objective: Objective, logsnr: Tensor, square: Tensor) -> Tensor:
    """Weighted expected loss [B] of Gaussian errors of mean square [B, C], averaged over C."""
    if objective.kind == "mse":
        loss = square
    elif objective.kind == "l1":
        # First absolute moment of a Gaussian.
        loss = square.sqrt() * math.sqrt(2 / math.pi)
    else:
        loss = _expected_huber(square.sqrt(), objective.huber_delta)
    return loss.mean(dim=1) * objective.weight(logsnr)


def _expected_huber(deviation: Tensor, delta: float) -> Tensor:
    """E[huber(e)] of Gaussian e: second moment inside delta, first absolute moment outside."""
    cut = delta / deviation.clamp(min=1e-30)
    density = torch.exp(-0.5 * cut**2) / math.sqrt(2 * math.pi)
    inside = torch.erf(cut / math.sqrt(2))
    quadratic = 0.5 * deviation**2 * (inside - 2 * cut * density)
    linear = delta * (2 * deviation * density - 0.5 * delta * (1 - inside))
    return quadratic + linear
