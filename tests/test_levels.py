"""Which noise levels training visits: densities by their quantiles, and unbiased weights."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from latentdiff.config import build as build_section
from latentdiff.diffusion import noise
from latentdiff.diffusion.levels import BINS, FLOOR, build_noise_level_sampler
from latentdiff.diffusion.settings import LevelsConfig, ScheduleConfig
from latentdiff.errors import ConfigError

SCHEDULE = noise.build(ScheduleConfig())
NORMAL = [
    ({"name": "logit-normal"}, 0.0, 2.0),
    ({"name": "logit-normal", "mean": 0.5, "std": 0.6}, -1.0, 1.2),
    # ln(sigma) of Karras, -1.2 +- 1.2 at deviation 0.5, in units of the data's deviation.
    ({"name": "edm"}, -2 * (-1.2 + math.log(2)), 2.4),
    ({"name": "edm", "mean": 1.0, "std": 4.0}, -2.0, 8.0),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def loss_of(logsnr):
    """Some loss that differs from level to level."""
    return torch.sigmoid(0.8 * logsnr + 1) ** 2 + 0.05


def adapted(steps=400):
    levels = build_noise_level_sampler(LevelsConfig(name="adaptive"), SCHEDULE)
    g = seeded()
    for _ in range(steps):
        logsnr, _ = levels.draw(16, g)
        levels.observe(logsnr, loss_of(logsnr))
    return levels


def test_the_schedule_itself():
    levels = build_noise_level_sampler(LevelsConfig(), SCHEDULE)
    logsnr, weight = levels.draw(64, seeded())
    assert torch.equal(logsnr, SCHEDULE(noise.stratified(64, seeded())))
    assert (weight == 1).all()
    assert not levels.observant


@pytest.mark.parametrize(("config", "mean", "std"), NORMAL)
def test_normal_levels_have_the_quantiles_of_a_cut_normal(config, mean, std):
    levels = build_noise_level_sampler(LevelsConfig(**config), SCHEDULE)
    logsnr, weight = levels.draw(20_000, seeded())
    assert (weight == 1).all()
    normal = NormalDist(mean, std)
    low, high = normal.cdf(SCHEDULE.logsnr_min), normal.cdf(SCHEDULE.logsnr_max)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        expected = normal.inv_cdf(low + share * (high - low))
        assert logsnr.quantile(share).item() == pytest.approx(expected, abs=0.01 * std)
    assert logsnr.min() >= SCHEDULE.logsnr_min
    assert logsnr.max() <= SCHEDULE.logsnr_max


def test_logit_normal_is_that_of_the_straight_path():
    """Esser et al.: t of (1 - t) z_0 + t eps has a normal logit."""
    wide = noise.build(ScheduleConfig(name="flow", logsnr_max=20, logsnr_min=-20))
    levels = build_noise_level_sampler(LevelsConfig(name="logit-normal", mean=0.3, std=0.8), wide)
    t = noise.build(ScheduleConfig(name="flow", logsnr_max=20, logsnr_min=-20)).t_of(
        levels.draw(20_000, seeded())[0].double()
    )
    logit = torch.logit(t)
    assert logit.mean().item() == pytest.approx(0.3, abs=0.01)
    assert logit.std().item() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("name", ["schedule", "logit-normal", "edm", "adaptive"])
def test_draws_are_stratified_and_repeat(name):
    levels = build_noise_level_sampler(LevelsConfig(name=name), SCHEDULE)
    logsnr, weight = levels.draw(16, seeded(3))
    again, weight_again = levels.draw(16, seeded(3))
    assert torch.equal(logsnr, again)
    assert torch.equal(weight, weight_again)
    assert logsnr.dtype == weight.dtype == torch.float32
    # One in each of 16 equally likely intervals, whose edges a large sample tells.
    many = levels.draw(160_000, seeded(4))[0].sort().values
    edges = many[10_000::10_000][:15].contiguous()
    counts = torch.bincount(torch.bucketize(logsnr, edges), minlength=16)
    assert (counts - 1).abs().sum() <= 2
    assert not (logsnr.diff() < 0).all()


def test_adaptive_begins_as_the_schedule():
    levels = build_noise_level_sampler(LevelsConfig(name="adaptive"), SCHEDULE)
    logsnr, weight = levels.draw(64, seeded())
    torch.testing.assert_close(logsnr, SCHEDULE(noise.stratified(64, seeded())), atol=1e-4, rtol=0)
    torch.testing.assert_close(weight, torch.ones(64))


def test_adaptive_density_follows_the_loss():
    levels = adapted()
    t = (torch.arange(BINS) + 0.5) / BINS
    losses = loss_of(SCHEDULE(t)).double()
    expected = FLOOR + (1 - FLOOR) * losses / losses.mean()
    torch.testing.assert_close(levels.density(), expected, rtol=0.1, atol=0.05)
    assert levels.density().mean().item() == pytest.approx(1.0, abs=1e-9)
    # And what is drawn has that density.
    drawn = SCHEDULE.t_of(levels.draw(64_000, seeded())[0].double())
    counts = torch.histc(drawn, BINS, 0, 1) / 64_000 * BINS
    torch.testing.assert_close(counts, levels.density(), atol=0.02, rtol=0.01)


def test_adaptive_weights_leave_the_objective_and_lessen_its_spread():
    levels, plain = adapted(), build_noise_level_sampler(LevelsConfig(), SCHEDULE)
    truth = loss_of(SCHEDULE(torch.linspace(0, 1, 100_001).double())).mean().item()

    def single_losses(levels):
        logsnr, weight = levels.draw(100_000, seeded(1))
        return loss_of(logsnr) * weight

    ours = single_losses(levels)
    assert ours.mean().item() == pytest.approx(truth, rel=2e-3)
    assert ours.std() < 0.6 * single_losses(plain).std()
    assert levels.draw(1000, seeded())[1].max() <= 1 / FLOOR + 1e-6


def test_adaptive_state_returns_exactly():
    levels, other = adapted(50), build_noise_level_sampler(LevelsConfig(name="adaptive"), SCHEDULE)
    state = {key: value.clone() for key, value in levels.state_dict().items()}
    other.load_state_dict(state)
    for _ in range(3):
        mine, theirs = levels.draw(16, seeded(7)), other.draw(16, seeded(7))
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        for one, (logsnr, _) in ((levels, mine), (other, theirs)):
            one.observe(logsnr, loss_of(logsnr))
    other.load_state_dict({})
    assert (other.density() == 1).all()


def test_losses_that_are_not_finite_are_not_remembered():
    levels = adapted(50)
    before = levels.density()
    levels.observe(torch.zeros(3), torch.tensor([float("nan"), float("inf"), float("nan")]))
    torch.testing.assert_close(levels.density(), before, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "bad",
    [{"name": "uniform"}, {"name": "edm", "std": 0}, {"name": "adaptive", "mean": 1}, {"std": 1}],
)
def test_impossible_levels_are_refused(bad):
    with pytest.raises(ConfigError):
        build_section(LevelsConfig, bad)
