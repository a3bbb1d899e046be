"""Experiments: each makes the mistake it names, and there are none without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latentdiff import config
from latentdiff.diffusion import baseline, noise, samplers
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import NoiseLevelSampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.diffusion.settings import DiffusionConfig, SamplingConfig
from latentdiff.errors import ConfigError, UserError
from latentdiff.model.project import Project
from latentdiff.networks.build import describe
from latentdiff.networks.layers import DenoisingNetwork
from latentdiff.networks.settings import NetworkConfig
from latentdiff.notebook.experiments import data, descriptions, network
from latentdiff.notebook.experiments.recipe import MistakenRecipe, make_recipe
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig
from latentdiff.specs import Condition, ConditionSize
from latentdiff.training.recipe import Recipe

SCHEDULE = noise.build(DiffusionConfig().schedule)
BARE = {"precondition": False, "parametrisation": "eps"}
NOTHING = Condition()


def experiment(**sections):
    return config.build(ExperimentConfig, sections)


def recipe(diffusion=None, **sections):
    """A recipe with these mistakes; `diffusion`: settings."""
    built = config.build(DiffusionConfig, diffusion or {})
    return MistakenRecipe(NetworkConfig(name="tiny"), built, experiment(**sections))


class Spy(DenoisingNetwork):
    """Remembers what it was given; puts out `answer` of it."""

    def __init__(self, channels, answer=lambda z, logsnr: z):
        super().__init__(NetworkConfig(name="tiny", channels=8), channels)
        self.answer = answer

    def forward(self, z, logsnr, condition):
        self.z, self.logsnr, self.features = z, logsnr, condition.values.get("mel")
        return self.answer(z, logsnr)


def noisy(logsnr, shape=(4, 3, 16), variance=1.0, seed=0):
    """z_t, z_0 and noise at log-SNR [B]."""
    generator = torch.Generator().manual_seed(seed)
    z_0, eps = (torch.randn(shape, generator=generator) for _ in range(2))
    z_0 = z_0 * variance**0.5
    alpha, sigma = alpha_sigma(logsnr[:, None, None])
    return alpha * z_0 + sigma * eps, z_0, eps


def test_nothing_is_wrong_without_experiments():
    sound, here = Recipe(NetworkConfig(name="tiny"), DiffusionConfig()), recipe()
    spy = Spy(3)
    assert network.with_mistakes(spy, NO_EXPERIMENT, 3, SCHEDULE) is spy
    t = torch.linspace(0, 1, 9)
    for schedule in (here.schedule, here.sampling_schedule):
        assert torch.equal(schedule(t), SCHEDULE(t))
    assert type(here.noise_level_sampler()) is NoiseLevelSampler
    assert here.objective() == sound.objective()
    assert here.transform_noise is None and here.transform_windows is None
    denoiser = here.wrap_network(spy, None)
    assert type(denoiser) is Denoiser
    assert here.denoise_for_sampling(denoiser, 8) is denoiser
    order = (denoiser, SamplingConfig(steps=4), [0, 1], 3, 16)
    assert torch.equal(here.sample(*order), sound.sample(*order))
    assert descriptions.warnings(NO_EXPERIMENT) == []
    assert type(make_recipe(NetworkConfig(), DiffusionConfig())) is Recipe


def test_every_switch_has_a_warning_and_warns_alone():
    keys = {f"{a}.{b}" for a, section in NO_EXPERIMENT.model_dump().items() for b in section}
    assert keys == set(descriptions.DESCRIPTIONS)
    lines = recipe(network={"norm": "batch"}, sampling={"clamp": 1.0}).warnings
    assert len(lines) == 2 and all("notebook" in line for line in lines)
    assert lines[0].startswith("experiment.network.norm=batch") and "N56" in lines[0]
    assert lines[1].startswith("experiment.sampling.clamp=1.0")


IMPOSSIBLE = {
    "one channel": {"experiment": {"network": {"output": "one", "layout": "flat"}}},
    "features to stretch": {
        "condition": {"kinds": "none"},
        "experiment": {"network": {"layout": "flat-stretched"}},
    },
    "no norms": {
        "experiment": {"network": {"norm": "batch"}},
        "network": {"name": "tiny"},
    },
    "divide_by_std": {"experiment": {"network": {"divide_by_std": True}}},
    "needs a condition": {
        "condition": {"kinds": "none"},
        "experiment": {"data": {"pairing": "shuffled"}},
    },
    "that encode stores": {
        "condition": {"kinds": "style"},
        "experiment": {"data": {"pairing": "shuffled"}},
    },
    "levels.name": {
        "experiment": {"training": {"t_range": [0.7, 1.0]}},
        "diffusion": {"levels": {"name": "edm"}},
    },
    "square_root": {"experiment": {"training": {"square_root": False}}},
    "previous": {"experiment": {"training": {"previous": 10}}, "diffusion": BARE},
    "low, high": {"experiment": {"training": {"t_range": [0.7, 0.7]}}},
}


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_what_cannot_be_is_refused(words):
    with pytest.raises(ConfigError, match=words):
        config.build(Project, IMPOSSIBLE[words])


# Data.


def test_drawn_posteriors_have_its_moments_and_are_drawn_once():
    mean = np.arange(3.0)[:, None].repeat(4000, 1).astype(np.float32)
    std = np.full_like(mean, 0.5)
    z = data.sample_posterior("a.wav", mean, std)
    assert np.allclose(z.mean(1), [0, 1, 2], atol=0.05) and np.allclose(z.std(1), 0.5, atol=0.03)
    assert np.array_equal(z, data.sample_posterior("a.wav", mean, std))
    assert not np.array_equal(z, data.sample_posterior("b.wav", mean, std))
    with pytest.raises(UserError, match=r"a\.wav.*\n.*deviation\n.*keep_std=true"):
        data.sample_posterior("a.wav", mean, None)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_shuffled_pairs_are_never_their_own(count):
    shuffled = recipe(data={"pairing": "shuffled"}).condition_sources(range(count))
    assert sorted(shuffled) == list(range(count))
    assert all(here != there for here, there in enumerate(shuffled))
    assert list(recipe().condition_sources(range(count))) == list(range(count))


def test_features_of_another_file_fill_any_length():
    features, shuffled = np.arange(4.0)[None], recipe(data={"pairing": "shuffled"})
    assert shuffled.fit_features(features, 6).tolist() == [[2, 3, 0, 1, 2, 3]]
    assert shuffled.fit_features(features, 3).tolist() == [[2, 3, 0]]


def test_scaled_windows_reach_from_minus_one_to_one():
    scale = recipe(data={"scaling": "window"}).transform_windows
    windows = scale(torch.randn(5, 3, 16) * torch.arange(1.0, 6.0)[:, None, None])
    assert torch.allclose(windows.amin((1, 2)), torch.tensor(-1.0))
    assert torch.allclose(windows.amax((1, 2)), torch.tensor(1.0))
    assert torch.isfinite(scale(torch.ones(1, 3, 16))).all()


# Networks.


def wrapped(spy, **settings):
    return network.with_mistakes(spy, experiment(network=settings), spy.channels, SCHEDULE)


def test_one_output_stands_for_all():
    z = torch.randn(2, 3, 8)
    out = wrapped(Spy(3), output="one")(z, torch.zeros(2), NOTHING)
    assert torch.equal(out, z[:, :1].expand(2, 3, 8))


@pytest.mark.parametrize(("bound", "low"), [("sigmoid", 0.0), ("tanh", -1.0)])
def test_outputs_are_bounded(bound, low):
    out = wrapped(Spy(3), bound=bound)(500 * torch.randn(2, 3, 8), torch.zeros(2), NOTHING)
    assert out.min() == low and out.max() == 1.0


@pytest.mark.parametrize("layout", ["flat", "flat-stretched"])
def test_flat_latents_lie_channel_after_channel(layout):
    spy = Spy(1, lambda z, logsnr: -z)
    flat = network.with_mistakes(spy, experiment(network={"layout": layout}), 2, SCHEDULE)
    z = torch.arange(6.0).view(1, 2, 3)
    out = flat(z, torch.zeros(1), Condition({"mel": torch.tensor([[[7.0, 8.0, 9.0]]])}))
    assert torch.equal(out, -z) and spy.z.tolist() == [[[0, 1, 2, 3, 4, 5]]]
    mel = [7, 8, 9, 7, 8, 9] if layout == "flat" else [7, 7, 8, 8, 9, 9]
    assert spy.features.tolist() == [[mel]]


@pytest.mark.parametrize("axis", [1, -1])
def test_batch_norm_is_over_everything_but_its_axis(axis):
    x = torch.randn(6, 4, 5, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    norm = network.BatchNorm(4, axis)
    out, others = norm(x), [d for d in range(4) if d != axis % 4]
    assert torch.allclose(out.mean(others), torch.zeros(4), atol=1e-5)
    assert torch.allclose(out.var(others, correction=0), torch.ones(4), atol=1e-3)
    norm.eval()
    # Running statistics have seen one batch only, of which they keep a tenth.
    assert norm(x).mean() > 0.5


@pytest.mark.parametrize("name", ["diffwave", "unet1d", "unet2d", "transformer"])
def test_no_norm_of_their_own_is_left(name):
    settings = NetworkConfig(name=name, channels=16)
    batch_norm = experiment(network={"norm": "batch"})
    made = MistakenRecipe(settings, DiffusionConfig(), batch_norm).make_network(
        3, {"mel": ConditionSize(features=5)}
    )
    kinds = [type(module) for module in made.modules()]
    assert network.BatchNorm in kinds and not any(issubclass(k, nn.LayerNorm) for k in kinds)
    z = torch.randn(2, 3, 16)
    assert made(z, torch.zeros(2), Condition({"mel": torch.randn(2, 5, 16)})).shape == z.shape


def test_wrapped_networks_can_be_described():
    everything = recipe(
        network={"layout": "flat", "bound": "tanh", "integer_steps": True, "divide_by_std": True},
        training={"square_root": False},
    )
    made = everything.make_network(3, {"mel": ConditionSize(features=5)})
    assert describe(made).parameters == sum(p.numel() for p in made.parameters())


def test_divided_latents_lose_their_scale_in_sampling_only():
    spy = Spy(3, lambda z, logsnr: torch.zeros_like(z))
    mistaken = recipe(BARE, network={"divide_by_std": True})
    made = network.with_mistakes(spy, mistaken.experiment, 3, SCHEDULE)
    denoiser = mistaken.wrap_network(made, None)
    logsnr = torch.full((4,), 8.0)
    z, _, _ = noisy(logsnr, variance=0.04)
    alpha = alpha_sigma(logsnr[0])[0]
    assert torch.allclose(denoiser(z, logsnr, NOTHING), z / alpha)
    assert torch.allclose(spy.z.std((1, 2)), torch.ones(4))
    found = mistaken.denoise_for_sampling(denoiser, 8)(z, logsnr, NOTHING)
    # At low noise: too large by one over the deviation of the latents, as N108 found.
    assert torch.allclose(found.std((1, 2)), torch.full((4,), 1 / float(alpha)), rtol=1e-4)
    assert 4 < (found.std() / z.std()) < 6


def test_integer_steps_are_given_in_sampling_only():
    spy, mistaken = Spy(3), recipe(network={"integer_steps": True})
    denoiser = Denoiser(network.with_mistakes(spy, mistaken.experiment, 3, SCHEDULE))
    t = torch.tensor([0.0, 0.25, 1.0])
    denoiser(torch.zeros(3, 3, 8), SCHEDULE(t), NOTHING)
    assert torch.allclose(spy.logsnr, network.SPAN * t, atol=2e-3)
    times = []
    spy.answer = lambda z, logsnr: times.append(logsnr.tolist()) or torch.zeros_like(z)
    settings = SamplingConfig(steps=5, spacing="t", sampler="ddim")
    mistaken.sample(mistaken.denoise_for_sampling(denoiser, 5), settings, [0], 3, 8)
    whole = [[network.SPAN * n] for n in (5, 4, 2, 1, 0)]
    assert times == whole  # quarters of 5, rounded
    denoiser(torch.zeros(3, 3, 8), SCHEDULE(t), NOTHING)
    assert times[-1] == pytest.approx((network.SPAN * t).tolist(), abs=2e-3)


# Training.


def test_one_level_a_batch():
    levels = recipe(training={"levels": "batch"}).noise_level_sampler()
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([levels.draw(8, generator)[0] for _ in range(400)])
    assert (draws == draws[:, :1]).all()
    t = SCHEDULE.t_of(draws[:, 0])
    assert abs(float(t.mean()) - 0.5) < 0.05 and t.min() < 0.02 and t.max() > 0.98


def test_part_of_the_levels():
    levels = recipe(training={"t_range": [0.7, 1.0]}).noise_level_sampler()
    logsnr, weight = levels.draw(100, torch.Generator().manual_seed(0))
    t = SCHEDULE.t_of(logsnr)
    assert 0.7 - 1e-4 <= t.min() < 0.71 and 0.99 < t.max() <= 1.0
    assert (weight == 1).all()


def test_clipped_noise():
    eps = torch.tensor([-3.0, -0.5, 0.5, 3.0])
    clip = recipe(training={"clip_noise": 1.0}).transform_noise
    assert clip(eps).tolist() == [-1.0, -0.5, 0.5, 1.0]


def test_without_the_square_root():
    mistaken = recipe(BARE, training={"square_root": False})
    assumed, trained = SCHEDULE, mistaken.schedule
    t = torch.tensor([0.2, 0.4, 0.6, 0.8])
    true, wrong = trained(t), assumed(t)
    assert torch.allclose(true, 2 * wrong)
    assert torch.allclose(trained.t_of(true), t, atol=1e-4)
    z_t, z_0, eps = noisy(true)
    spy = Spy(3, lambda z, logsnr: eps)
    made = network.with_mistakes(spy, mistaken.experiment, 3, trained)
    denoiser = mistaken.wrap_network(made, None)
    # Training: the network sees alpha^2 z_0 + sigma^2 eps, and a perfect one loses nothing.
    loss = Objective("eps")(denoiser, z_0, true, eps, NOTHING)
    alpha, sigma = alpha_sigma(wrong[:, None, None])
    assert torch.allclose(spy.z, alpha**2 * z_0 + sigma**2 * eps, atol=1e-5)
    assert float(loss.max()) < 1e-6
    # Sampling: it gets z_t itself at the level of its step, and the formula has the roots.
    found = mistaken.denoise_for_sampling(denoiser, 8)(z_t, wrong, NOTHING)
    assert torch.allclose(spy.z, z_t, atol=1e-5) and torch.allclose(spy.logsnr, true)
    assert torch.allclose(found, (z_t - sigma * eps) / alpha, atol=1e-3)
    assert torch.allclose(mistaken.sampling_schedule(t), wrong)


def previous(network_, steps, kind="l1"):
    """Recipe, denoiser and objective of x_{t-1} prediction."""
    diffusion = {"precondition": False, "parametrisation": "x0", "loss": kind}
    mistaken = recipe(diffusion, training={"previous": steps})
    return mistaken, mistaken.wrap_network(network_, None), mistaken.objective()


def a_step_before(t, z_0, eps, steps):
    before = t.double() - 1 / steps
    alpha, sigma = alpha_sigma(SCHEDULE(before.clamp(min=0))[:, None, None])
    clean = (before <= 0)[:, None, None]
    return torch.where(clean, z_0, alpha * z_0 + sigma * eps).float()


def test_a_perfect_previous_gives_the_clean_latents_and_no_loss():
    t = torch.tensor([0.05, 0.3, 0.6, 0.9])
    z_t, z_0, eps = noisy(SCHEDULE(t))
    spy = Spy(3, lambda z, logsnr: a_step_before(t, z_0, eps, 10))
    _, denoiser, objective = previous(spy, 10)
    assert torch.allclose(denoiser(z_t, SCHEDULE(t), NOTHING), z_0, atol=1e-3)
    assert float(objective(denoiser, z_0, SCHEDULE(t), eps, NOTHING).max()) < 1e-4


def test_the_loss_of_previous_is_that_of_the_latents_a_step_before():
    t = torch.tensor([0.05, 0.3, 0.6, 0.9])
    z_t, z_0, eps = noisy(SCHEDULE(t))
    _, denoiser, objective = previous(Spy(3), 10)
    loss = objective(denoiser, z_0, SCHEDULE(t), eps, NOTHING)
    assert torch.allclose(
        loss, (z_t - a_step_before(t, z_0, eps, 10)).abs().mean((1, 2)), rtol=1e-3
    )


def test_baselines_of_previous_equal_monte_carlo():
    t, variance = torch.tensor([0.3, 0.6]), 0.25
    _, z_0, eps = noisy(SCHEDULE(t), (2, 1, 40000), variance)
    _, denoiser, objective = previous(Spy(1, lambda z, logsnr: torch.zeros_like(z)), 10, "mse")
    measured = objective(denoiser, z_0, SCHEDULE(t), eps, NOTHING)
    expected = baseline.zero(objective, SCHEDULE(t), torch.tensor([variance]))
    assert torch.allclose(measured, expected, rtol=0.05)


def test_sampling_the_previous_is_calling_the_network_again_and_again():
    steps = 6
    mistaken, denoiser, _ = previous(Spy(3, lambda z, logsnr: 0.8 * z), steps)
    settings = SamplingConfig(steps=steps + 1, spacing="t", sampler="ddim")
    x = mistaken.sample(denoiser, settings, [5], 3, 8)
    start = samplers.SeededNoise([5], 3, 8)()
    assert torch.allclose(x, 0.8 ** (steps + 1) * start, rtol=2e-3)


# Sampling.


def sampled(**settings):
    denoiser = Denoiser(Spy(2, lambda z, logsnr: z.square()), precondition=False)
    return recipe(sampling=settings).sample(denoiser, SamplingConfig(steps=6), [0, 1], 2, 64)


def test_clamped_samples():
    assert sampled().abs().max() > 1.5
    assert sampled(clamp=1.0).abs().max() == 1.0


def test_normalised_samples_are_normal_whatever_they_were():
    def skewness(x):
        x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
        return float((x**3).mean(-1).abs().max())

    bent = sampled(normalise=True)
    assert torch.allclose(bent.std(-1), torch.ones(2, 2), atol=1e-4)
    assert skewness(bent) < 0.5 * skewness(sampled())
