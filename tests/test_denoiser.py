"""Denoiser, loss and baselines: closed forms against Monte Carlo."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from latentdiff.config import build as build_section
from latentdiff.diffusion import baseline, noise
from latentdiff.diffusion.denoiser import (
    Denoiser,
    affine,
    autoguided,
    guided,
    knows_variance,
)
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.settings import (
    DiffusionConfig,
    LossKind,
    Parametrisation,
    SamplingConfig,
    Weighting,
)
from latentdiff.errors import ConfigError, UserError
from latentdiff.specs import Condition

PARAMETRISATIONS = get_args(Parametrisation)
NOISY = [name for name in PARAMETRISATIONS if name != "regression"]
KINDS = get_args(LossKind)
LEVELS = torch.tensor([-6.0, -2.0, 0.0, 3.0, 6.0])
FREE = Condition()
VARIANCE = torch.tensor([0.3, 1.0, 2.5])


def constant(value):
    return lambda z, logsnr, condition: torch.full_like(z, value)


def noisy(z_0, logsnr, seed=0):
    eps = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(seed))
    alpha, sigma = noise.alpha_sigma(logsnr[:, None, None])
    return alpha * z_0 + sigma * eps, eps, alpha, sigma


def quantity(name, z_0, eps, alpha, sigma):
    return {
        "eps": eps,
        "x0": z_0,
        "v": alpha * eps - sigma * z_0,
        "flow": eps - z_0,
        "regression": z_0,
    }[name]


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_the_true_quantity_gives_the_true_latents(name):
    z_0 = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(1))
    z_t, eps, alpha, sigma = noisy(z_0, LEVELS)
    truth = quantity(name, z_0, eps, alpha, sigma)
    denoise = Denoiser(lambda z, logsnr, c: truth, name, precondition=False)
    torch.testing.assert_close(denoise(z_t, LEVELS, FREE), z_0, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("variance", [None, torch.ones(3), VARIANCE])
def test_a_preconditioned_zero_is_the_best_guess_from_variance(name, variance):
    z_t = torch.randn(5, 3, 7)
    alpha, sigma = noise.alpha_sigma(LEVELS[:, None, None])
    s = 1.0 if variance is None else variance[:, None]
    best = alpha * s / (alpha**2 * s + sigma**2) * z_t
    denoise = Denoiser(constant(0.0), name, variance=variance)
    torch.testing.assert_close(denoise(z_t, LEVELS, FREE), best)
    torch.testing.assert_close(knows_variance(z_t, LEVELS, variance), best)


def test_preconditioned_networks_see_and_are_asked_for_unit_variance():
    g = torch.Generator().manual_seed(7)
    z_0 = torch.randn(5, 3, 4000, generator=g) * VARIANCE.sqrt()[:, None]
    z_t = noisy(z_0, LEVELS)[0]
    seen = []
    denoise = Denoiser(lambda z, *_: seen.append(z) or torch.zeros_like(z), variance=VARIANCE)
    known = denoise(z_t, LEVELS, FREE)
    torch.testing.assert_close(seen[0].std(-1), torch.ones(5, 3), atol=0.05, rtol=0)
    # What the network would have to put out, by probing the output scale with ones.
    scale = Denoiser(constant(1.0), variance=VARIANCE)(z_t, LEVELS, FREE) - known
    wanted = (z_0 - known) / scale
    torch.testing.assert_close(wanted.std(-1), torch.ones(5, 3), atol=0.05, rtol=0)


def test_regression_sees_the_condition_only():
    seen = []

    def network(z, logsnr, condition):
        seen.append(z)
        return torch.ones_like(z)

    denoise = Denoiser(network, "regression", variance=VARIANCE)
    out = denoise(torch.randn(5, 3, 7), LEVELS, FREE)
    assert not seen[0].any()
    torch.testing.assert_close(out, VARIANCE.sqrt()[:, None].expand(5, 3, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_regression_that_knows_nothing_scores_the_variance(kind):
    schedule = noise.schedule_of(DiffusionConfig(parametrisation="regression"))
    level = schedule(torch.rand(4))
    assert schedule.warnings == []
    objective = Objective("regression", kind=kind)
    zero = baseline.zero(objective, level, VARIANCE)
    best = baseline.variance_only(objective, level, VARIANCE)
    torch.testing.assert_close(best, zero, rtol=1e-4, atol=0)
    z_0 = torch.randn(4, 3, 40_000, generator=torch.Generator().manual_seed(1))
    z_0 = z_0 * VARIANCE.sqrt()[:, None]
    denoise = Denoiser(constant(0.0), "regression", variance=VARIANCE)
    loss = objective(denoise, z_0, level, torch.randn(z_0.shape), FREE)
    torch.testing.assert_close(loss.mean(), zero.mean(), rtol=0.01, atol=0)


def test_regression_has_no_levels_to_weigh():
    with pytest.raises(ConfigError, match="uniform"):
        build_section(DiffusionConfig, {"parametrisation": "regression", "weighting": "edm"})


def test_network_output_of_another_shape_is_refused():
    broadcastable = Denoiser(lambda z, logsnr, c: z[:, :1])
    with pytest.raises(ValueError, match=r"\(5, 1, 7\).*\(5, 3, 7\)"):
        broadcastable(torch.zeros(5, 3, 7), LEVELS, FREE)


def test_loss_refuses_shapes_that_would_broadcast():
    objective = Objective()
    z = torch.zeros(5, 3, 7)
    with pytest.raises(ValueError, match="noise"):
        objective(constant(0.0), z, LEVELS, z[:1], FREE)
    with pytest.raises(ValueError, match="estimate"):
        objective(lambda z, logsnr, c: z[:, :1], z, LEVELS, z, FREE)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_error_of_the_quantity_itself(name, kind):
    g = torch.Generator().manual_seed(2)
    z_0, guess = torch.randn(2, 5, 3, 7, generator=g)
    z_t, eps, alpha, sigma = noisy(z_0, LEVELS)
    a, b = affine(name, LEVELS[:, None, None])
    error = (guess - a * z_t) / b - quantity(name, z_0, eps, alpha, sigma)
    direct = {
        "mse": error**2,
        "l1": error.abs(),
        "huber": torch.where(error.abs() < 0.5, error**2 / 2, 0.5 * (error.abs() - 0.25)),
    }[kind].mean((1, 2))
    objective = Objective(name, kind=kind, huber_delta=0.5)
    loss = objective(lambda z, logsnr, c: guess, z_0, LEVELS, eps, FREE)
    torch.testing.assert_close(loss, direct, rtol=2e-3, atol=1e-4)


def test_padded_frames_do_not_count():
    g = torch.Generator().manual_seed(3)
    z, eps = torch.randn(2, 5, 3, 7, generator=g)
    mask = torch.ones(5, 7)
    mask[:, 4:] = 0
    mask[4] = 0
    objective = Objective()
    masked = objective(constant(0.0), z, LEVELS, eps, FREE, mask)
    short = objective(constant(0.0), z[..., :4], LEVELS, eps[..., :4], FREE)
    torch.testing.assert_close(masked[:4], short[:4])
    assert masked[4] == 0
    torch.testing.assert_close(
        objective(constant(0.0), z, LEVELS, eps, FREE, torch.ones(5, 7)),
        objective(constant(0.0), z, LEVELS, eps, FREE),
    )


@pytest.mark.parametrize("weighting", get_args(Weighting))
def test_a_weighting_means_the_same_in_every_parametrisation(weighting):
    """Under mse, all but `uniform` weigh the error of z_0 alike, whatever the loss is taken in."""
    on_z_0 = [Objective(p, weighting) for p in PARAMETRISATIONS]
    weights = [o.weight(LEVELS) / o.scale(LEVELS) ** 2 for o in on_z_0]
    if weighting == "uniform":
        assert all((o.weight(LEVELS) == 1).all() for o in on_z_0)
        return
    for weight in weights[1:]:
        torch.testing.assert_close(weight, weights[0], rtol=1e-4, atol=0)
    snr = LEVELS.exp()
    expected = {
        "min-snr": snr.clamp(max=5),
        "sigmoid": snr * torch.sigmoid(-LEVELS),
        "edm": 1 + snr,
    }[weighting]
    torch.testing.assert_close(weights[0], expected, rtol=1e-4, atol=0)


def monte_carlo(objective, denoise, z_0, logsnr):
    """Loss [levels] of a denoiser over Gaussian latents [n, C, T] that it does not know."""
    losses = []
    for level in logsnr:
        levels = level.expand(len(z_0))
        eps = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(5))
        losses.append(objective(denoise, z_0, levels, eps, FREE).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_baselines_equal_monte_carlo(name, kind):
    g = torch.Generator().manual_seed(4)
    z_0 = torch.randn(2000, 3, 32, generator=g) * VARIANCE.sqrt()[:, None]
    objective = Objective(name, "min-snr", kind, huber_delta=0.7)

    def nothing(z, logsnr, condition):
        return affine(name, logsnr[:, None, None])[0] * z

    def wiener(z, logsnr, condition):
        alpha, sigma = noise.alpha_sigma(logsnr[:, None, None])
        s = VARIANCE[:, None]
        return alpha * s / (alpha**2 * s + sigma**2) * z

    zero = baseline.zero(objective, LEVELS, VARIANCE)
    torch.testing.assert_close(
        monte_carlo(objective, nothing, z_0, LEVELS), zero, rtol=0.01, atol=0
    )
    best = baseline.variance_only(objective, LEVELS, VARIANCE)
    torch.testing.assert_close(monte_carlo(objective, wiener, z_0, LEVELS), best, rtol=0.01, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_spectrum_baseline_equals_monte_carlo(kind):
    """Circular AR(2) latents: the Wiener filter is exact, and no other denoiser does better."""
    frames = 64
    w = 2 * math.pi * torch.arange(frames) / frames
    transfer = 1 / (1 - 1.2 * torch.exp(-1j * w) + 0.6 * torch.exp(-2j * w))
    spectrum = (transfer.abs() ** 2)[None]
    spectrum = spectrum / spectrum.mean()
    g = torch.Generator().manual_seed(6)
    white = torch.randn(6000, 1, frames, generator=g)
    z_0 = torch.fft.ifft(torch.fft.fft(white) * spectrum.sqrt()).real
    torch.testing.assert_close(baseline.power_spectrum(z_0), spectrum, rtol=0.1, atol=0.01)
    objective = Objective("v", kind=kind)

    def wiener(z, logsnr, condition):
        alpha, sigma = noise.alpha_sigma(logsnr[:, None, None])
        gain = alpha * spectrum / (alpha**2 * spectrum + sigma**2)
        return torch.fft.ifft(torch.fft.fft(z) * gain).real

    expected = baseline.spectrum_only(objective, LEVELS, spectrum)
    torch.testing.assert_close(
        monte_carlo(objective, wiener, z_0, LEVELS), expected, rtol=0.01, atol=0
    )
    flat = baseline.variance_only(objective, LEVELS, torch.ones(1))
    assert (expected < flat).all()
    # White latents have nothing in their spectrum to know.
    white_too = baseline.spectrum_only(objective, LEVELS, torch.ones(1, frames))
    torch.testing.assert_close(white_too, flat)


def test_velocity_of_unit_variance_has_baseline_one_at_every_level():
    best = baseline.variance_only(Objective("v"), LEVELS, torch.ones(3))
    torch.testing.assert_close(best, torch.ones(5))
    assert baseline.skill(0.25, 1.0) == 0.75


@pytest.mark.parametrize(
    ("steps", "kind", "loss"), [(50, "l1", 0.654), (500, "mse", 0.248), (1000, "l1", 0.198)]
)
def test_losses_of_models_that_learned_nothing(steps, kind, loss):
    """What eps-prediction of white unit-variance latents ends at under betas 1e-4..0.05."""
    logsnr = noise.chain_logsnr(noise.linear_betas(1e-4, 0.05, steps))
    floor = baseline.variance_only(Objective("eps", kind=kind), logsnr, torch.ones(1)).mean()
    assert floor.item() == pytest.approx(loss, abs=5e-4)


@pytest.mark.parametrize(("kind", "loss"), [("l1", 0.7979), ("mse", 1.0)])
def test_predicting_no_noise_scores_the_moments_of_a_gaussian(kind, loss):
    zero = baseline.zero(Objective("eps", kind=kind), LEVELS, VARIANCE)
    torch.testing.assert_close(zero, torch.full((5,), loss), atol=1e-4, rtol=0)


def shifted_by_label(z, logsnr, condition):
    return z if "label" not in condition.values else z + condition.values["label"][:, None, None]


def test_guidance():
    z, condition = torch.randn(5, 3, 7), Condition({"label": torch.ones(5)})
    assert guided(shifted_by_label, 1.0) is shifted_by_label
    for scale in (0.0, 0.5, 3.0):
        out = guided(shifted_by_label, scale)(z, LEVELS, condition)
        torch.testing.assert_close(out, z + scale)
    inside = guided(shifted_by_label, 3.0, (-2.0, 3.0))(z, LEVELS, condition)
    torch.testing.assert_close(inside[[0, 4]], z[[0, 4]] + 1)
    torch.testing.assert_close(inside[1:4], z[1:4] + 3)


def test_guidance_outside_its_interval_costs_one_call():
    calls = []

    def counted(z, logsnr, condition):
        calls.append(condition)
        return z

    guided(counted, 3.0, (10.0, 11.0))(torch.zeros(5, 3, 7), LEVELS, FREE)
    assert len(calls) == 1


def test_guidance_without_a_condition_costs_one_call():
    calls = []

    def model(z_t, logsnr, condition):
        calls.append(condition)
        return z_t

    z = torch.randn(2, 3, 8)
    assert torch.equal(guided(model, 20.0)(z, torch.zeros(2), Condition()), z)
    assert len(calls) == 1


def test_guidance_of_samples_without_a_condition_is_refused():
    SamplingConfig(guidance=20).check_guidance(conditioned=True)
    SamplingConfig().check_guidance(conditioned=False)
    with pytest.raises(UserError, match=r"sampling\.guidance=20 has no effect"):
        SamplingConfig(guidance=20).check_guidance(conditioned=False)


def test_rescaled_guidance_has_the_level_of_none():
    def louder(z, logsnr, condition):
        return z if "label" not in condition.values else 2 * z

    z, condition = torch.randn(5, 3, 700), Condition({"label": torch.ones(5)})
    out = guided(louder, 4.0, rescale=1.0)(z, LEVELS, condition)
    torch.testing.assert_close(out.std(dim=(1, 2)), (2 * z).std(dim=(1, 2)))


def test_autoguidance_exaggerates_what_is_known_beyond_variances():
    variance = torch.tensor([0.5, 1.0, 2.0])
    z = torch.randn(5, 3, 7)
    known = knows_variance(z, LEVELS, variance)

    def knows_more(z, logsnr, condition):
        return knows_variance(z, logsnr, variance) + 0.3

    assert autoguided(knows_more, 1.0, (-2.0, 3.0)) is knows_more
    out = autoguided(knows_more, 1.5, (-2.0, 3.0), variance)(z, LEVELS, FREE)
    torch.testing.assert_close(out[1:4], known[1:4] + 0.45)
    torch.testing.assert_close(out[[0, 4]], known[[0, 4]] + 0.3)


def test_autoguidance_leaves_a_model_alone_that_knows_variances_only():
    z, variance = torch.randn(5, 3, 7), torch.tensor([0.5, 1.0, 2.0])
    model = Denoiser(lambda z, logsnr, condition: torch.zeros_like(z), variance=variance)
    out = autoguided(model, 3.0, (-20.0, 20.0), variance)(z, LEVELS, FREE)
    torch.testing.assert_close(out, model(z, LEVELS, FREE))
