"""The level loss: zero for what it must not mind, and the way out of a codec that is too quiet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from latentdiff.rave.level import FRAME, add_level_loss, erb_bands, level_distance

RATE = 16000


@pytest.fixture
def audio():
    return 0.1 * torch.randn(2, 1, 16384, generator=torch.Generator().manual_seed(0))


def distance(target, prediction):
    return level_distance(target, prediction, torch.hann_window(FRAME), erb_bands(RATE)).item()


def test_a_gain_counts_by_its_logarithm_and_equal_audio_not_at_all(audio):
    assert distance(audio, audio) == 0
    for gain in (0.5, 2.0):
        assert distance(audio, gain * audio) == pytest.approx(2 * 0.6931, rel=0.01)


def test_it_does_not_mind_when_things_happen(audio):
    moved = audio.roll(3000, -1)
    assert distance(audio, moved) < 0.05
    assert distance(audio, audio.flip(-1)) < 0.05


def test_silence_does_not_count(audio):
    quiet = torch.zeros_like(audio)
    assert distance(quiet, quiet) == 0
    assert distance(quiet, 1e-5 * audio) < 0.01
    assert distance(audio, quiet) > 5


def test_bands_hold_every_bin_once_and_widen():
    bands = erb_bands(RATE)
    assert bands.shape[0] == FRAME // 2 + 1 and (bands.sum(1) == 1).all()
    widths = bands.sum(0)
    assert (widths >= 1).all() and widths[-1] > 8 * widths[0]


def test_the_gradient_makes_a_quiet_prediction_louder(audio):
    gain = torch.tensor(0.2, requires_grad=True)
    window, bands = torch.hann_window(FRAME), erb_bands(RATE)
    for _ in range(60):
        loss = level_distance(audio, gain * audio, window, bands)
        (slope,) = torch.autograd.grad(loss, gain)
        with torch.no_grad():
            gain -= 0.02 * gain * slope.sign()
    assert gain.item() == pytest.approx(0.2 * 1.02**60, rel=0.05)


def test_it_joins_the_losses_of_training_only(audio):
    class Distance(nn.Module):
        def forward(self, target, prediction):
            return {"spectral_distance": (target - prediction).abs().mean()}

    module = Distance()
    add_level_loss(SimpleNamespace(audio_distance=module, sr=RATE), 0.5)
    losses = module(audio, 0.5 * audio)
    assert losses["level"].item() == pytest.approx(0.5 * distance(audio, 0.5 * audio))
    assert set(module.eval()(audio, audio)) == {"spectral_distance"}
