"""Networks: shapes, honesty of the receptive field, conditions, and that they learn."""

from __future__ import annotations

import pytest
import torch

from latentdiff.config import build as build_section
from latentdiff.diffusion import baseline, noise
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.settings import ScheduleConfig
from latentdiff.errors import ConfigError
from latentdiff.networks.build import NETWORKS, build, describe
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition

C, K, LABELS = 3, 5, 2
FREE = Condition()


def small(name, features=0, labels=0, trained=True, **settings):
    """A small network; `trained` gives its last layer weights other than zero."""
    torch.manual_seed(0)
    config = NetworkConfig(name=name, channels=16, blocks=4, dilation_cycle=3, **settings)
    network = build(config, C, features, labels).eval()
    if trained:
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
    return network


def latents(batch=2, frames=40, seed=0):
    return torch.randn(batch, C, frames, generator=torch.Generator().manual_seed(seed))


def levels(batch=2):
    return torch.linspace(-4, 4, batch)


@pytest.mark.parametrize("name", NETWORKS)
def test_untrained_networks_put_out_zero(name):
    network = small(name, trained=False)
    assert not network(latents(), levels(), FREE).any()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frames", [1, 2, 7, 64, 501])
def test_any_length_goes(name, frames):
    out = small(name, K)(
        latents(frames=frames), levels(), Condition(features=torch.randn(2, K, frames))
    )
    assert out.shape == (2, C, frames)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_deterministic_and_samples_independent(name):
    network, z = small(name), latents(3)
    out = network(z, levels(3), FREE)
    assert torch.equal(out, network(z, levels(3), FREE))
    torch.testing.assert_close(
        network(z[1:2], levels(3)[1:2], FREE), out[1:2], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_field_is_what_it_says(name):
    network, middle = small(name), 60
    z = latents(1, 121).requires_grad_()
    network(z, levels(1), FREE)[0, :, middle].sum().backward()
    seen = z.grad[0].abs().sum(0).nonzero().flatten()
    reach = (network.receptive_field - 1) // 2
    assert (seen.min().item(), seen.max().item()) == (middle - reach, middle + reach)
    assert describe(network).receptive_field == network.receptive_field


@pytest.mark.parametrize("name", NETWORKS)
def test_shifted_input_gives_shifted_output_away_from_the_borders(name):
    network, z = small(name), latents(2, 121)
    out, shifted = (network(x, levels(), FREE) for x in (z, z.roll(5, -1)))
    torch.testing.assert_close(shifted[..., 45:76], out[..., 40:71], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_noise_level_matters(name):
    network, z = small(name), latents(2).repeat(1, 1, 1)
    assert not torch.allclose(network(z, levels(), FREE), network(z, -levels(), FREE), atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_conditions_act_and_absent_ones_are_null(name):
    network, z = small(name, K, LABELS), latents()
    features, label = torch.randn(2, K, 40), torch.tensor([0, 1])
    given = network(z, levels(), Condition(features, label))
    free = network(z, levels(), FREE)
    none = torch.zeros(2, dtype=torch.bool)
    torch.testing.assert_close(network(z, levels(), Condition(features, label, none)), free)
    half = network(z, levels(), Condition(features, label, torch.tensor([True, False])))
    torch.testing.assert_close(half, torch.stack([given[0], free[1]]))
    for other in (Condition(features.flip(0), label), Condition(features, label.flip(0))):
        assert not torch.allclose(network(z, levels(), other), given, atol=1e-3)
    assert not torch.allclose(given, free, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_condition_acts_on_its_own_frames(name):
    network, z, middle = small(name, K), latents(1, 121), 60
    features = torch.randn(1, K, 121)
    changed = features.clone()
    changed[..., middle] += 1
    out, other = (network(z, levels(1), Condition(f)) for f in (features, changed))
    moved = (out - other).abs().sum(1)[0] > 1e-6
    reach = (network.receptive_field - 1) // 2 + 2
    assert moved[middle]
    assert not moved[: middle - reach].any()
    assert not moved[middle + reach + 1 :].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_conditions_of_another_length_are_told(name):
    with pytest.raises(ValueError, match="41 frames for latents of 40"):
        small(name, K)(latents(), levels(), Condition(features=torch.zeros(2, K, 41)))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_batch_norm_and_gradients_reach_everything(name):
    network = small(name, K, LABELS)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in network.modules())
    given = torch.tensor([True, False])
    condition = Condition(torch.randn(2, K, 40), torch.tensor([0, 1]), given)
    network(latents(), levels(), condition).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_skip_sum_is_the_output():
    """Every block's skip half reaches the output, not only the residual stream's end."""
    network = small("diffwave")
    out = network(latents(), levels(), FREE)
    width = 16
    for block in network.blocks:
        kept = block.out.weight.data.clone()
        block.out.weight.data[width:] = 0
        assert not torch.allclose(network(latents(), levels(), FREE), out, atol=1e-4)
        block.out.weight.data = kept


def test_description_is_for_people():
    network = build(NetworkConfig(channels=128), 6)
    text = str(describe(network))
    assert text.startswith("diffwave: ")
    assert "M parameters" in text
    assert f"sees {network.receptive_field} frames" in text
    assert "k parameters" in str(describe(small("tiny")))


@pytest.mark.parametrize("bad", [{"kernel": 4}, {"channels": 20}, {"name": "wavenet"}])
def test_impossible_networks_are_refused(bad):
    with pytest.raises(ConfigError):
        build_section(NetworkConfig, bad)


def resonance(batch, frames, generator):
    """AR(2) latents [batch, 1, frames] of unit variance, and their spectrum."""
    white = torch.randn(batch, 1, frames + 100, generator=generator)
    x = torch.zeros_like(white)
    for t in range(2, frames + 100):
        x[..., t] = 1.6 * x[..., t - 1] - 0.9 * x[..., t - 2] + white[..., t]
    x = x[..., 100:]
    return x / x.std()


def skill_after_training(name, data, steps):
    torch.manual_seed(0)
    config = NetworkConfig(name=name, channels=32, blocks=4, dilation_cycle=4)
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
    skill, _ = skill_after_training(name, data, steps=80)
    assert skill == pytest.approx(0, abs=0.05)


def test_a_resonance_is_learned_close_to_the_wiener_optimum():
    data = resonance(1500, 48, torch.Generator().manual_seed(0))
    skill, optimum = skill_after_training("diffwave", data, steps=200)
    assert optimum > 0.3
    assert skill == pytest.approx(optimum, abs=0.06)
