"""The faster training step of RAVE against RAVE's own: losses, gradients, weights' names."""

from __future__ import annotations

import pytest
import torch

from latentdiff.rave import compat
from latentdiff.rave.gin_config import assemble, receptive_field
from latentdiff.rave.settings import RaveConfig
from latentdiff.rave.spectral import SpectralDistance, is_supported
from latentdiff.rave.speedup import speed_up

TINY = {"capacity": 4, "ratios": [4, 4, 2], "n_band": 8, "latent_size": 16, "steps": 10}
N_SIGNAL = 16384
ALL_SCALES = [2048, 1024, 512, 256, 128]


def upstream_distance(scales, log_epsilon, **options):
    compat.prepare()
    from rave import core

    return core.AudioDistanceV1(lambda: core.MultiScaleSTFT(scales, 16000, **options), log_epsilon)


def value_and_gradient(distance, target, prediction):
    prediction = prediction.clone().requires_grad_()
    value = distance(target, prediction)["spectral_distance"]
    value.backward()
    return value.detach(), prediction.grad


def relative_error(value, truth):
    return float((value - truth).norm() / truth.norm())


# --- the spectral distance


@pytest.mark.real
@pytest.mark.parametrize(("scales", "log_epsilon"), [([1024, 256], 1e-2), (ALL_SCALES, 1e-7)])
@pytest.mark.parametrize("shape", [(3, 1, 4096), (2, 2, 5003), (2, 16, 1100)])
def test_the_distance_has_upstreams_value_and_gradient(scales, log_epsilon, shape):
    torch.manual_seed(0)
    target = torch.randn(shape) * torch.logspace(-4, 0, shape[-1])
    prediction = 0.7 * target + 0.01 * torch.randn(shape)
    theirs = upstream_distance(scales, log_epsilon)
    ours = SpectralDistance(theirs.multiscale_stft, log_epsilon)
    value, gradient = value_and_gradient(ours, target, prediction)
    true_value, true_gradient = value_and_gradient(theirs, target, prediction)
    assert relative_error(value, true_value) < 1e-5
    assert relative_error(gradient, true_gradient) < 1e-5
    with torch.no_grad():
        assert torch.equal(ours(target, prediction)["spectral_distance"], value)


@pytest.mark.real
def test_silence_has_upstreams_gradient_too():
    """A silent prediction, and silence in both: the magnitude has no direction there."""
    torch.manual_seed(0)
    theirs = upstream_distance([512, 128], 1e-7)
    ours = SpectralDistance(theirs.multiscale_stft, 1e-7)
    target, prediction = torch.randn(3, 1, 4096), torch.randn(3, 1, 4096)
    prediction[0] = 0
    target[1] = prediction[1] = 0
    value, gradient = value_and_gradient(ours, target, prediction)
    true_value, true_gradient = value_and_gradient(theirs, target, prediction)
    assert relative_error(value, true_value) < 1e-5
    assert relative_error(gradient, true_gradient) < 1e-5
    assert not gradient[:2].any()


@pytest.mark.real
def test_the_target_gets_no_gradient():
    ours = SpectralDistance(upstream_distance([256], 1e-7).multiscale_stft, 1e-7)
    target, prediction = (torch.randn(1, 1, 1024, requires_grad=True) for _ in range(2))
    ours(target, prediction)["spectral_distance"].backward()
    assert target.grad is None and prediction.grad is not None


@pytest.mark.real
@pytest.mark.parametrize("options", [{"magnitude": False}, {"normalized": True}, {"num_mels": 8}])
def test_other_spectra_are_not_supported(options):
    assert is_supported(upstream_distance([1024], 1e-7).multiscale_stft)
    assert not is_supported(upstream_distance([1024], 1e-7, **options).multiscale_stft)


# --- the training step


def build(configs, channels=1, overrides=(), n_band=8):
    """The same small RAVE at every call, with a record of the gradients at each step."""
    settings = {**TINY, "configs": configs, "overrides": list(overrides), "n_band": n_band}
    torch.manual_seed(0)
    model = assemble(RaveConfig(**settings), 16000, channels).model
    model.receptive_field.copy_(torch.tensor(receptive_field(model)))
    return model


def one_step(model, phase, batch_idx):
    """Gradients of the parameters that are stepped, and the metrics."""
    optimizers = tuple(entry["optimizer"] for entry in model.configure_optimizers())
    gradients, metrics = {}, {}

    def record(optimizer, *_):
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            if id(parameter) in stepped and parameter.grad is not None:
                gradients[name] = parameter.grad.clone()

    for optimizer in optimizers:
        optimizer.register_step_pre_hook(record)
    model.optimizers = lambda: optimizers
    model.log = metrics.__setitem__
    model.log_dict = metrics.update
    model.warmed_up = phase == 2
    torch.manual_seed(1)
    audio = 0.3 * torch.randn(2, model.n_channels, N_SIGNAL)
    model.training_step(audio, batch_idx)
    return gradients, {
        name: float(torch.as_tensor(value).detach()) for name, value in metrics.items()
    }


@pytest.mark.real
@pytest.mark.parametrize(
    ("configs", "channels"),
    [(["v1"], 1), (["v2"], 1), (["v2"], 2), (["v2", "spherical"], 1), (["v2", "wasserstein"], 1)],
)
@pytest.mark.parametrize(("phase", "batch_idx"), [(1, 0), (2, 0), (2, 1)])
def test_a_step_has_upstreams_losses_and_gradients(configs, channels, phase, batch_idx):
    overrides = ["core.MultiScaleSTFT.scales=[1024,256]"]
    with compat.isolated_gin():
        model = build(configs, channels, overrides)
        truth, true_metrics = one_step(model, phase, batch_idx)
    with compat.isolated_gin():
        model = build(configs, channels, overrides)
        names = list(model.state_dict())
        speed_up(model)
        gradients, metrics = one_step(model, phase, batch_idx)
    assert list(model.state_dict()) == names
    assert isinstance(model.audio_distance, SpectralDistance)
    assert metrics == pytest.approx(true_metrics, rel=1e-5)
    assert gradients.keys() == truth.keys()
    flat, true_flat = (
        torch.cat([g.flatten() for g in found.values()]) for found in (gradients, truth)
    )
    assert relative_error(flat, true_flat) < 1e-5
    assert model.pqmf.forward_conv.weight.grad is None
    discriminating = (phase, batch_idx) == (2, 0)
    unused = (model.encoder, model.decoder) if discriminating else (model.discriminator,)
    assert all(p.grad is None for part in unused for p in part.parameters())


@pytest.mark.real
def test_a_distance_of_another_kind_stays():
    with compat.isolated_gin():
        model = build(["v2"], overrides=["core.MultiScaleSTFT.normalized=True"])
        before = model.audio_distance
        speed_up(model)
    assert model.audio_distance is before


@pytest.mark.real
def test_the_optimisers_are_fused_and_continue_from_those_that_were_not():
    with compat.isolated_gin():
        model = build(["v2"])
        old, _ = (entry["optimizer"] for entry in model.configure_optimizers())
        speed_up(model)
        new, _ = (entry["optimizer"] for entry in model.configure_optimizers())
    assert new.param_groups[0]["fused"]
    parameters = old.param_groups[0]["params"]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    old.step()
    new.load_state_dict(old.state_dict())
    new.step()
    assert all(state["step"] == 2 for state in new.state.values())
