"""Schedules on the log-SNR axis."""

from __future__ import annotations

import math

import pytest
import torch

from latentdiff.config import build as build_section
from latentdiff.diffusion import noise
from latentdiff.diffusion.schedules import SCHEDULES, Curve
from latentdiff.diffusion.settings import ScheduleConfig
from latentdiff.errors import ConfigError

CONTINUOUS = [name for name, entry in SCHEDULES.items() if isinstance(entry, Curve)]
T = torch.linspace(0, 1, 101, dtype=torch.float64)


def test_alpha_and_sigma_are_the_two_legs_of_one():
    logsnr = torch.linspace(-40, 40, 161)
    alpha, sigma = noise.alpha_sigma(logsnr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(161))
    torch.testing.assert_close(2 * (alpha.log() - sigma.log()), logsnr, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_and_invert(name):
    schedule = noise.build(ScheduleConfig(name=name))
    logsnr = schedule(T)
    assert (logsnr.diff() < 0).all()
    assert (schedule.logsnr_max, schedule.logsnr_min) == (logsnr[0], logsnr[-1])
    torch.testing.assert_close(schedule.t_of(logsnr), T, atol=1e-9, rtol=0)
    assert schedule(T.float()).dtype == torch.float32


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_continuous_schedules_stay_in_their_limits_and_shift(name, shift):
    schedule = noise.build(ScheduleConfig(name=name, logsnr_max=6, logsnr_min=-7, shift=shift))
    assert schedule.logsnr_max == pytest.approx(6, abs=1e-9)
    assert schedule.logsnr_min == pytest.approx(-7, abs=1e-9)
    # Density of log-SNR is that of the unshifted curve, moved: quantiles between levels agree.
    plain = noise.build(ScheduleConfig(name=name, logsnr_max=6 - shift, logsnr_min=-7 - shift))
    torch.testing.assert_close(schedule(T), plain(T) + shift, atol=1e-8, rtol=0)


def test_closed_forms_in_the_middle():
    wide = {"logsnr_max": 20.0, "logsnr_min": -20.0}
    at = {n: noise.build(ScheduleConfig(name=n, **wide))(T)[25].item() for n in CONTINUOUS}
    assert at["cosine"] == pytest.approx(-2 * math.log(math.tan(math.pi / 8)), abs=1e-3)
    assert at["flow"] == pytest.approx(2 * math.log(3), abs=1e-3)
    assert at["laplace"] == pytest.approx(0.5 * math.log(2), abs=1e-6)
    # Karras: ln sigma = -1.2 +- 1.2 for deviation 0.5; a quarter is 0.6745 deviations out.
    assert at["edm"] == pytest.approx(-2 * (-1.2 - math.log(0.5) - 0.6745 * 1.2), abs=1e-3)
    gamma = 1 / (1 + math.exp(-at["sigmoid"]))
    low, high, here = (1 / (1 + math.exp(-x)) for x in (-3, 3, -1.5))
    assert gamma == pytest.approx((high - here) / (high - low), abs=1e-6)


@pytest.mark.parametrize("steps", [50, 1000])
def test_a_chain_holds_the_levels_of_its_betas(steps):
    betas = noise.linear_betas(1e-4, 0.05, steps)
    abar = torch.cumprod(1 - betas, 0)
    schedule = noise.chain("mine", betas)
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    alpha, sigma = noise.alpha_sigma(schedule(t))
    torch.testing.assert_close(alpha, abar.sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(sigma, (1 - abar).sqrt(), rtol=1e-9, atol=0)
    assert schedule.gain == pytest.approx(abar[-1].item() ** -0.5)


def test_levels_are_visited_equally_often():
    betas = noise.linear_betas(1e-4, 0.05, 50)
    chain = noise.build(ScheduleConfig(name="diffwave")).visited()
    torch.testing.assert_close(chain, noise.chain_logsnr(betas))
    flow = noise.build(ScheduleConfig(name="flow", logsnr_max=20, logsnr_min=-20)).visited()
    # On the straight path t is sigma / (alpha + sigma): uniform.
    alpha, sigma = noise.alpha_sigma(flow)
    t = sigma / (alpha + sigma)
    assert t.mean().item() == pytest.approx(0.5, abs=1e-3)
    torch.testing.assert_close(t.diff(), torch.full_like(t[1:], 1e-3), rtol=1e-3, atol=0)


def test_known_chains_have_their_known_gain():
    assert noise.build(ScheduleConfig(name="audioldm")).gain == pytest.approx(197, abs=0.5)
    own = ScheduleConfig(name="betas", beta_start=1e-4, beta_end=0.05, beta_steps=1000)
    assert noise.build(own).gain == pytest.approx(3.4e5, rel=0.01)
    soft = ScheduleConfig(name="betas", beta_start=1e-5, beta_end=0.0085, beta_steps=1000)
    assert noise.build(soft).gain == pytest.approx(8.4, abs=0.1)


def test_warnings_name_what_is_wrong_and_only_that():
    assert noise.build(ScheduleConfig()).warnings == []
    assert noise.build(ScheduleConfig(name="linear-ddpm")).warnings == []
    (warning,) = noise.build(ScheduleConfig(name="diffwave")).warnings
    assert "53 % of the signal" in warning
    own = ScheduleConfig(name="betas", beta_start=1e-4, beta_end=0.05, beta_steps=1000)
    (warning,) = noise.build(own).warnings
    assert "3.4e+05" in warning


def test_a_chain_that_ends_in_pure_noise_is_finite():
    schedule = noise.build(ScheduleConfig(name="betas", beta_end=1.0))
    assert schedule.logsnr_min == -noise.CHAIN_LIMIT
    assert torch.isfinite(schedule(T)).all()


def test_stratified_has_one_value_in_each_interval():
    t = noise.stratified(64, torch.Generator().manual_seed(0))
    assert ((t.sort().values * 64).floor() == torch.arange(64)).all()
    assert not (t.diff() > 0).all()
    assert torch.equal(t, noise.stratified(64, torch.Generator().manual_seed(0)))
    many = torch.cat([noise.stratified(4, torch.Generator().manual_seed(i)) for i in range(4000)])
    assert many[::4].mean().item() == pytest.approx(0.5, abs=0.02)
    assert many[::4].var().item() == pytest.approx(1 / 12, abs=0.005)


def test_stratified_loss_varies_less_than_independent_draws():
    g = torch.Generator().manual_seed(0)
    ours = torch.stack([noise.stratified(16, g).square().mean() for _ in range(500)]).std()
    independent = torch.rand(500, 16, generator=g).square().mean(1).std()
    assert ours < 0.2 * independent


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "cosin"},
        {"logsnr_max": -1},
        {"shift": 9.0},
        {"beta_end": 1.5},
        {"beta_steps": 1},
    ],
)
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(ConfigError):
        build_section(ScheduleConfig, bad)
