"""The strength of samples: measured when training ends, made up for by autoguidance."""

from __future__ import annotations

import math

import pytest
import torch

from latentdiff import config
from latentdiff.conditioning import ConditionConfig
from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import knows_variance
from latentdiff.diffusion.settings import DiffusionConfig, SamplingConfig
from latentdiff.latents.store import CodecFacts
from latentdiff.latents.whitening import Whitening
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition
from latentdiff.training import checkpoint
from latentdiff.training.data import Batch
from latentdiff.workflows.calibrate import SCALES, calibrate, crossing, draw
from latentdiff.workflows.model import Model, header_of, make_denoiser

CHANNELS, FRAMES = 2, 16
SETTINGS = SamplingConfig(steps=8)


@pytest.mark.parametrize(
    ("powers", "scale"),
    [
        ([1.0], 1.0),
        ([1.7], 1.0),
        ([0.8, 1.2], 1.05),
        ([0.5, 0.7, 0.9, 1.1], 1.25),
        ([0.5] * len(SCALES), SCALES[-1]),
        ([0.5, 0.7, math.nan], SCALES[1]),
        ([math.inf], 1.0),
    ],
)
def test_where_the_power_reaches_that_of_the_latents(powers, scale):
    assert crossing(powers) == pytest.approx(scale, abs=1e-3)


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of a network that has learned nothing yet."""
    network = config.build(NetworkConfig, {"name": "tiny", "channels": 8})
    denoiser = make_denoiser(network, DiffusionConfig(), channels=CHANNELS)
    whitening = Whitening(torch.zeros(CHANNELS), torch.eye(CHANNELS), torch.ones(CHANNELS))
    codec = CodecFacts("c" * 64, sample_rate=8000, hop=64, latent_dim=CHANNELS, channels=1)
    header = header_of(network, DiffusionConfig(), ConditionConfig(), codec, "", [], FRAMES)
    tensors = checkpoint.pack(network=denoiser.state_dict(), whitening=whitening.state_dict())
    path = tmp_path / "best.safetensors"
    checkpoint.save_weights(path, tensors, {**header, "step": 7})
    return path


def windows(power=1.0, count=64):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(count, CHANNELS, FRAMES, generator=generator)
    z = z * (power / z.square().mean()).sqrt()
    mask = torch.ones(count, FRAMES, dtype=torch.bool)
    return Batch(z, mask, Condition(), torch.zeros(count, dtype=torch.long))


def test_a_model_that_knows_variances_needs_none(weights):
    """Its samples are white noise as strong as the latents, whatever is exaggerated."""
    found = calibrate(weights, windows(power=0.8), SETTINGS, "cpu")
    assert found == 1.0 and Model.load(weights).autoguidance == 1.0


def test_what_a_model_holds_back_is_given_back(weights, monkeypatch):
    """Samples a little too weak become as strong as they ought to be."""
    before = checkpoint.load_weights(weights)

    def knowing(self, z_t, logsnr, condition):
        """Something, which makes samples stronger the more it is exaggerated."""
        return 1.2 * knows_variance(z_t, logsnr)

    monkeypatch.setattr("latentdiff.diffusion.denoiser.Denoiser.forward", knowing)
    plain = SETTINGS.model_copy(update={"autoguidance": 1.0})
    power = float(draw(Model.load(weights), windows(), plain).square().mean())
    found = calibrate(weights, windows(power=1.02 * power), SETTINGS, "cpu")
    assert SCALES[0] < found < SCALES[-1]
    after = checkpoint.load_weights(weights)
    assert after.header == {**before.header, "autoguidance": found}
    assert all(torch.equal(x, before.tensors[name]) for name, x in after.tensors.items())
    model = Model.load(weights)
    settings = model.draws(SETTINGS)
    assert settings.autoguidance == found
    reached = float(draw(model, windows(), settings).square().mean())
    assert reached == pytest.approx(1.02 * power, rel=1e-3)
    # What is asked for goes before what was found.
    assert model.draws(SamplingConfig(autoguidance=1.3)).autoguidance == 1.3


def test_levels_are_those_that_sampling_visits():
    low, high = SETTINGS.autoguidance_interval
    schedule = noise.build(DiffusionConfig().schedule)
    assert schedule.logsnr_min < low < high < schedule.logsnr_max
