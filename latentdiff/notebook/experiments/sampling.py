"""Mistakes in sampling: denoisers that get other inputs than in training, and bent samples.

Shapes: B samples, C latent channels, T frames.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.notebook.experiments.network import (
    TimeConditioned,
    divide_by_std,
    length_without_root,
)
from latentdiff.specs import Condition, Denoise


def with_integer_steps(denoiser: Denoiser, steps: int) -> Denoiser:
    """The same denoiser with a network that gets the number of the step instead of t."""
    assert isinstance(denoiser.network, TimeConditioned)  # as `network.with_mistakes` makes it
    other = copy.copy(denoiser)
    other._modules = {**denoiser._modules, "network": denoiser.network.in_steps(steps)}
    return other


def divide_input(denoise: Denoise) -> Denoise:
    """The same denoiser given z_t divided by its standard deviation, which is never restored."""
    return lambda z_t, logsnr, condition: denoise(divide_by_std(z_t), logsnr, condition)


def assume_square_root(denoise: Denoise) -> Denoise:
    """The noise that a model of alpha^2 z_0 + sigma^2 eps finds, in the formula with the roots."""

    def denoise_with_root(z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        # The model rescales its input as in training and takes it for one of twice the log-SNR.
        # Undone beforehand, so that its network gets z_t itself, as it did in the notebook.
        scaled = z_t / length_without_root(logsnr)
        alpha, sigma = alpha_sigma(2 * logsnr[:, None, None])
        eps = (scaled - alpha * denoise(scaled, 2 * logsnr, condition)) / sigma
        # The mistake: the noise is subtracted as if z_t had been mixed with the roots.
        alpha, sigma = alpha_sigma(logsnr[:, None, None])
        return (z_t - sigma * eps) / alpha

    return denoise_with_root


def normalise(x: Tensor, variance: Tensor | None) -> Tensor:
    """[B, C, T], each channel of each sample made normal, with `variance` [C] (None: ones)."""
    from scipy import stats

    flat = x.double().cpu().flatten(0, 1)
    bent = torch.stack([torch.from_numpy(stats.yeojohnson(row.numpy())[0]) for row in flat])
    bent = (bent - bent.mean(1, keepdim=True)) / bent.std(1, keepdim=True).clamp(min=1e-8)
    scale = 1.0 if variance is None else variance.sqrt()[:, None]
    return bent.view_as(x).to(x) * scale
