"""Loudness of audio and of curves as typed."""

from __future__ import annotations

import numpy as np
import pytest

from latentdiff.conditions.loudness import (
    LoudnessConfig,
    curve_features,
    loudness_blocks,
    parse_curve,
)
from latentdiff.errors import UserError

CONFIG = LoudnessConfig()


def decibels(audio, pieces=1):
    blocks = np.array_split(audio.astype(np.float32)[None], pieces, axis=1)
    (loudness,) = np.concatenate(list(loudness_blocks(blocks, CONFIG)), axis=1)
    assert loudness.dtype == np.float32 and loudness.min() >= 0 and loudness.max() <= 1
    return 60 * loudness - 60


def sine(frequency, amplitude=1.0):
    time = np.arange(CONFIG.sample_rate) / CONFIG.sample_rate
    return amplitude * np.sin(2 * np.pi * frequency * time)


# IEC 61672-1, table 3.
@pytest.mark.parametrize(
    ("frequency", "weight"), [(1000, 0), (100, -19.1), (250, -8.6), (4000, 1.0), (8000, -1.1)]
)
def test_a_sine_has_its_weighted_level(frequency, weight):
    level = decibels(sine(frequency, 0.1))[4:-4]
    np.testing.assert_allclose(level, -20 - 3.01 + weight, atol=0.7)


def test_white_noise_has_the_level_of_its_weighted_spectrum():
    noise = 0.1 * np.random.default_rng(0).standard_normal(CONFIG.sample_rate * 4)
    power = np.mean(10 ** (decibels(noise)[4:-4] / 10))
    # IEC 61672-1, table 3, in dB at octaves from 31.25 Hz to 16 kHz; sampled up to 11025 Hz.
    table = [-39.4, -26.2, -16.1, -8.6, -3.2, 0, 1.2, 1.0, -1.1, -6.6]
    frequencies = np.linspace(20, 11025, 10_000)
    weights = np.interp(np.log2(frequencies / 1000), np.arange(-5, 5), table)
    expected = -20 + 10 * np.log10(np.mean(10 ** (weights / 10)))
    assert 10 * np.log10(power) == pytest.approx(expected, abs=0.2)


def test_silence_and_what_is_below_the_floor_are_the_floor():
    assert (decibels(np.zeros(3000)) == -60).all()
    assert (decibels(sine(1000, 1e-4)) == -60).all()


def test_a_step_in_level_shows_within_a_frame():
    audio = sine(1000)
    audio[len(audio) // 2 :] *= 0.1
    level = decibels(audio)
    middle = len(level) // 2
    np.testing.assert_allclose(level[[middle - 3, middle + 3]], [-3, -23], atol=0.2)


@pytest.mark.parametrize("samples", [1, 255, 256, 12_345])
def test_how_the_audio_is_cut_makes_no_difference(samples):
    audio = sine(300)[:samples]
    assert len(decibels(audio)) == 1 + samples // CONFIG.hop
    np.testing.assert_allclose(decibels(audio, pieces=7), decibels(audio), atol=1e-3)


def test_a_curve_is_linear_in_decibels():
    features = curve_features(parse_curve("-30, -12,-20"), frames=8)
    assert features.shape == (1, 8) and features.dtype == np.float32
    expected = [-27.75, -23.25, -18.75, -14.25, -13, -15, -17, -19]
    np.testing.assert_allclose(60 * features[0] - 60, expected, atol=1e-4)
    np.testing.assert_allclose(curve_features([-60], 3), 0)
    np.testing.assert_allclose(curve_features([0], 3), 1)


@pytest.mark.parametrize("text", ["", "loud", "-20,", "-61", "3", "nan", "-inf"])
def test_what_is_no_curve_is_refused(text):
    with pytest.raises(UserError, match="is not a loudness"):
        parse_curve(text)
