"""Drawing samples as it should not be done.

Shapes: B samples, C latent channels, T frames.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentdiff.diffusion import samplers
from latentdiff.diffusion.noise import Schedule, alpha_sigma
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.notebook.experiments import training
from latentdiff.notebook.experiments.network import Timed, divided, length_without_root
from latentdiff.notebook.experiments.settings import ExperimentConfig
from latentdiff.specs import Condition, Denoise


def as_sampled(config: ExperimentConfig, denoiser: nn.Module, steps: int) -> Denoise:
    """What a sampler of so many steps takes the denoiser for; usually itself."""
    found: Denoise = denoiser
    if config.network.integer_steps:
        assert isinstance(denoiser.network, Timed)  # as `network.build` makes it
        found = _with_network(denoiser, denoiser.network.in_steps(steps))
    if config.network.divide_by_std:
        found = _divided(found)
    return found if config.training.square_root else _without_root(found)


def sample(
    config: ExperimentConfig,
    denoise: Denoise,
    schedule: Schedule,
    settings: SamplingConfig,
    seeds: Sequence[int],
    channels: int,
    frames: int,
    condition: Condition = Condition(),  # noqa: B008 (immutable)
    device: torch.device | str = "cpu",
    variance: Tensor | None = None,
) -> Tensor:
    """`samplers.sample` with what is wrong about it; usually nothing.

    `denoise`: of `as_sampled`. `schedule`: the one trained on.
    """
    limit = config.sampling.clamp
    x = samplers.sample(
        denoise,
        training.schedule_of_sampling(config, schedule),
        settings,
        seeds,
        channels,
        frames,
        condition,
        device,
        variance=variance,
        after=None if limit is None else lambda z: z.clamp(-limit, limit),
    )
    return _normal(x, variance) if config.sampling.normalise else x


def _with_network(denoiser: nn.Module, network: nn.Module) -> nn.Module:
    other = copy.copy(denoiser)
    other._modules = {**denoiser._modules, "network": network}
    return other


def _divided(denoise: Denoise) -> Denoise:
    return lambda z_t, logsnr, condition: denoise(divided(z_t), logsnr, condition)


def _without_root(denoise: Denoise) -> Denoise:
    """The noise that a model of alpha^2 z_0 + sigma^2 eps finds, in the formula with the roots."""

    def denoise_without_root(z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        # What the network is given must be z_t itself, which it takes for one of twice the log-SNR.
        seen = z_t / length_without_root(logsnr)
        alpha, sigma = alpha_sigma(2 * logsnr[:, None, None])
        eps = (seen - alpha * denoise(seen, 2 * logsnr, condition)) / sigma
        alpha, sigma = alpha_sigma(logsnr[:, None, None])
        return (z_t - sigma * eps) / alpha

    return denoise_without_root


def _normal(x: Tensor, variance: Tensor | None) -> Tensor:
    """[B, C, T], each channel of each sample bent to a normal shape, of `variance` [C] or 1."""
    from scipy import stats

    flat = x.double().cpu().flatten(0, 1)
    bent = torch.stack([torch.from_numpy(stats.yeojohnson(row.numpy())[0]) for row in flat])
    bent = (bent - bent.mean(1, keepdim=True)) / bent.std(1, keepdim=True).clamp(min=1e-8)
    scale = 1.0 if variance is None else variance.sqrt()[:, None]
    return bent.view_as(x).to(x) * scale
