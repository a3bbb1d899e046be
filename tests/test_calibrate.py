"""The strength of samples: held to training windows when training ends, made up for."""

from __future__ import annotations

import math

import pytest
import torch

from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import knows_variance
from latentdiff.diffusion.settings import DiffusionConfig, SamplingConfig
from latentdiff.latents.store import CodecFacts
from latentdiff.latents.whitening import Whitening
from latentdiff.model.calibrate import SCALES, calibrate, nearest
from latentdiff.model.model import Model
from latentdiff.model.sampling import draw_like
from latentdiff.specs import Condition
from latentdiff.training import checkpoint
from latentdiff.training.data import Batch

CHANNELS, FRAMES = 2, 16
SETTINGS = SamplingConfig(steps=8, autoguidance_interval=(-20, 20))


@pytest.mark.parametrize(
    ("distances", "scale"),
    [
        ([4.0], 1.0),
        ([4.0, 4.0], 1.0),
        ([4.0, 5.0], 1.0),
        # A parabola with its lowest point at 1.23.
        ([(x - 1.23) ** 2 + 1 for x in (1.0, 1.1, 1.2, 1.3)], 1.23),
        ([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], SCALES[-1]),
        ([4.0, 3.0, math.inf], SCALES[1]),
        ([math.inf, math.inf], 1.0),
    ],
)
def test_where_the_distance_is_least(distances, scale):
    assert nearest(distances) == pytest.approx(scale, abs=1e-3)


@pytest.fixture
def weights(tmp_path, make_model):
    """A checkpoint of a network that has learned nothing yet."""
    whitening = Whitening(torch.zeros(CHANNELS), torch.eye(CHANNELS), torch.ones(CHANNELS))
    codec = CodecFacts("c" * 64, sample_rate=8000, hop=64, latent_dim=CHANNELS, channels=1)
    path = tmp_path / "best.safetensors"
    return make_model(path, whitening=whitening, codec=codec, window=FRAMES, gain=0)


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
    """Samples that are too weak become as strong as they ought to be."""
    before = checkpoint.load_weights(weights)

    def knowing(self, z_t, logsnr, condition):
        """Something, which makes samples stronger the more it is exaggerated."""
        return 1.2 * knows_variance(z_t, logsnr)

    monkeypatch.setattr("latentdiff.diffusion.denoiser.Denoiser.forward", knowing)
    wanted = SETTINGS.model_copy(update={"autoguidance": 1.3})
    power = float(draw_like(Model.load(weights), windows(), wanted).square().mean())
    found = calibrate(weights, windows(power=power), SETTINGS, "cpu")
    assert found == pytest.approx(1.3, abs=0.05)
    after = checkpoint.load_weights(weights)
    assert after.header == {**before.header, "autoguidance": found}
    assert all(torch.equal(x, before.tensors[name]) for name, x in after.tensors.items())
    model = Model.load(weights)
    assert model.resolve(SETTINGS).autoguidance == found
    # What is asked for goes before what was found.
    assert model.resolve(SamplingConfig(autoguidance=1.3)).autoguidance == 1.3


def test_levels_are_those_that_sampling_visits():
    low, high = SamplingConfig().autoguidance_interval
    schedule = noise.build(DiffusionConfig().schedule)
    assert schedule.logsnr_min < low < high < schedule.logsnr_max
