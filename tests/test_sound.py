"""Levels and spectral distance, held to what is known of sines and gains."""

from __future__ import annotations

import math

import numpy as np
import pytest

from latentdiff.evaluation import sound


def sine(samples, period=50.0, amplitude=1.0):
    return (amplitude * np.sin(2 * np.pi * np.arange(samples) / period)).astype(np.float32)


def test_level_of_a_sine():
    assert sound.level_db(sine(5000)) == pytest.approx(-3.0103, abs=1e-3)
    assert sound.level_db(sine(5000, amplitude=0.1)) == pytest.approx(-23.0103, abs=1e-3)
    assert sound.level_db(np.zeros(10)) == -math.inf


def test_level_in_blocks_is_the_level_of_the_whole():
    audio = np.random.default_rng(0).standard_normal((2, 1000))
    level = sound.LevelMeter()
    for block in np.split(audio, [1, 400, 400], axis=1):
        level.add(block)
    assert level.db == pytest.approx(sound.level_db(audio))
    assert level.peak == pytest.approx(np.abs(audio).max())
    assert sound.LevelMeter().db == -math.inf


def test_silence():
    assert sound.is_silent(np.zeros((1, 100)))
    assert sound.is_silent(sine(1000, amplitude=1e-4))
    assert not sound.is_silent(sine(1000, amplitude=1e-2))


@pytest.mark.parametrize("samples", [1, 100, 2048, 50_000])
def test_distance_to_itself_is_zero_and_symmetric(samples):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1, samples)).astype(np.float32) * 0.1
    assert sound.spectral_distance(a, a) == 0
    assert sound.spectral_distance(a, -a) == 0
    assert sound.spectral_distance(a, b) == pytest.approx(sound.spectral_distance(b, a))
    if samples > 1:  # the one sample lies under the end of the window
        assert sound.spectral_distance(a, b) > 1


def test_distance_of_a_gain_is_the_gain():
    noise = np.random.default_rng(0).standard_normal(60_000).astype(np.float32) * 0.3
    assert sound.spectral_distance(noise, noise / 2) == pytest.approx(6.02, abs=0.05)


def test_floor_hides_what_nobody_hears():
    faint = sine(10_000, amplitude=1e-5)
    assert sound.spectral_distance(faint, np.zeros_like(faint)) == 0


def test_distance_does_not_depend_on_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1, 40_000)).astype(np.float32) * 0.1
    whole = sound.spectral_distance(a, b)
    monkeypatch.setattr(sound, "_BLOCK", 4096)
    assert sound.spectral_distance(a, b) == pytest.approx(whole, abs=1e-6)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="cannot compare"):
        sound.spectral_distance(np.zeros(5), np.zeros(6))
