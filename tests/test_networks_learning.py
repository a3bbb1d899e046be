"""Networks learn what there is to learn: nothing from noise, the best filter from a resonance."""

from __future__ import annotations

import pytest
import torch

from latentdiff.diffusion import baseline, noise
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.settings import ScheduleConfig
from latentdiff.networks.build import NETWORKS, build
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition

FREE = Condition()


def resonance(batch, frames, generator):
    """AR(2) latents [batch, 1, frames] of unit variance, and their spectrum."""
    white = torch.randn(batch, 1, frames + 100, generator=generator)
    x = torch.zeros_like(white)
    for t in range(2, frames + 100):
        x[..., t] = 1.6 * x[..., t - 1] - 0.9 * x[..., t - 2] + white[..., t]
    x = x[..., 100:]
    return x / x.std()


def skill_after_training(config, data, steps, seed=0):
    """(Skill on held-out windows, that of the best filter)."""
    torch.manual_seed(seed)
    denoise = Denoiser(build(config, data.shape[1]))
    objective, schedule = Objective(), noise.build(ScheduleConfig())
    optimiser = torch.optim.Adam(denoise.parameters(), lr=4e-3)
    train, held_out = data[:-200], data[-200:]
    for _ in range(steps):
        z = train[torch.randint(len(train), (16,))]
        loss = objective(denoise, z, schedule(noise.stratified(16)), torch.randn_like(z), FREE)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    logsnr = schedule(noise.stratified(200))
    with torch.no_grad():
        loss = objective(denoise, held_out, logsnr, torch.randn_like(held_out), FREE)
    known = baseline.variance_only(objective, logsnr, torch.ones(data.shape[1]))
    wiener = baseline.spectrum_only(objective, logsnr, baseline.power_spectrum(train))
    return (
        float(baseline.skill(loss.mean(), known.mean())),
        float(baseline.skill(wiener.mean(), known.mean())),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_white_noise_teaches_nothing(name):
    data = torch.randn(1000, 2, 32, generator=torch.Generator().manual_seed(0))
    config = NetworkConfig(name=name, channels=16, blocks=2, multipliers=(1, 2))
    skill, _ = skill_after_training(config, data, steps=80)
    assert skill == pytest.approx(0, abs=0.05)


def test_a_resonance_is_learned_close_to_the_wiener_optimum():
    data = resonance(1500, 48, torch.Generator().manual_seed(0))
    config = NetworkConfig(name="diffwave", channels=16, blocks=4, dilation_cycle=4)
    skill, optimum = skill_after_training(config, data, steps=200)
    assert optimum > 0.3
    assert skill == pytest.approx(optimum, abs=0.04)
