"""Scenes of synthetic sound: reproducible, sound, and unlike each other."""

from __future__ import annotations

import numpy as np
import pytest

from latentdiff import synth
from latentdiff.synth.instruments import INSTRUMENTS
from latentdiff.synth.layers import LAYERS
from latentdiff.synth.noise import band, reverberate, shaped, tilted
from latentdiff.synth.partials import harmonic, points, stretch
from latentdiff.synth.percussion import KITS
from latentdiff.synth.scenes import LEVELS_DBFS

RATE = 16000


@pytest.fixture(scope="module")
def scenes():
    return [synth.scene(5, index, RATE, seconds=4) for index in range(40)]


def long_term(samples):
    """Power in six bands of an octave, as shares; samples of silence give none."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / RATE)
    octaves = [power[(hz >= low) & (hz < 2 * low)].sum() for low in 125 * 2 ** np.arange(6)]
    return np.array(octaves) / max(1e-12, sum(octaves))


def level_db(samples):
    return 10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-12)


def test_the_same_scene_comes_again_and_others_differ(scenes):
    np.testing.assert_array_equal(scenes[3], synth.scene(5, 3, RATE, seconds=4))
    assert not np.array_equal(scenes[3], synth.scene(6, 3, RATE, seconds=4))


def test_scenes_are_finite_unclipped_and_of_all_levels(scenes):
    levels = []
    for samples in scenes:
        assert samples.shape == (4 * RATE,) and samples.dtype == np.float32
        assert np.isfinite(samples).all() and np.abs(samples).max() < 0.96
        levels.append(level_db(samples))
    sounding = [level for level in levels if level > -50]
    assert len(sounding) > 34  # the others are silence, or a little hiss
    assert min(sounding) > LEVELS_DBFS[0] - 1 and max(sounding) < LEVELS_DBFS[1] + 1
    assert np.std(sounding) > 4


def test_their_spectra_are_spread_widely(scenes):
    """Lows, mids and highs each dominate some scenes, as in no single piece of music."""
    shares = np.array([long_term(samples) for samples in scenes])
    assert (shares.argmax(1) == 0).any() and (shares.argmax(1) >= 4).any()
    assert (shares.max(0) > 0.3).all()


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("layer", [layer for layer, _ in LAYERS])
def test_every_layer_sounds_at_every_rate(layer, rate):
    heard = 0
    for seed in range(4):
        samples = layer(np.random.default_rng(seed), rate, 3.0)
        assert samples.shape == (3 * rate,) and np.isfinite(samples).all()
        heard += np.abs(samples).max() > 1e-3
    assert heard >= 3  # a pattern of few hits may have none


@pytest.mark.parametrize("maker", sorted(set(INSTRUMENTS), key=lambda maker: maker.__name__))
def test_instruments_are_in_tune(maker):
    """Most of a note's energy lies at its pitch and multiples of it, bells and FM aside."""
    note = maker(np.random.default_rng(1), RATE)(220.0, 1.0)
    assert np.isfinite(note).all() and 0.2 * RATE < len(note) <= 1.2 * RATE
    power = np.abs(np.fft.rfft(note * np.hanning(len(note)))) ** 2
    hz = np.fft.rfftfreq(len(note), 1 / RATE)
    near = np.abs(hz / 220 - np.round(hz / 220)) < 0.15
    share = power[near & (hz > 150)].sum() / power.sum()
    assert share > (0.1 if maker.__name__ in ("bell", "fm") else 0.7)


@pytest.mark.parametrize("kit", sorted(set(KITS), key=lambda kit: kit.__name__))
def test_hits_begin_at_once_and_fade(kit):
    hit = kit(np.random.default_rng(0), RATE)
    first, second = hit(), hit()
    assert not np.array_equal(first, second)
    energy = np.cumsum(first.astype(np.float64) ** 2)
    assert energy[len(energy) // 2] > 0.5 * energy[-1]
    assert abs(first[-1]) < 1e-3 * np.abs(first).max()


def test_tones_do_not_alias_even_where_the_pitch_glides():
    pitch = np.linspace(900, 1100, points(1.0))
    tone = harmonic(pitch, 8000, 1.0, lambda hz, h: np.ones_like(hz))
    power = np.abs(np.fft.rfft(tone * np.hanning(len(tone)))) ** 2
    hz = np.fft.rfftfreq(len(tone), 1 / 8000)
    # The three harmonics below 0.45 of the rate leave gaps between them, where aliases would lie.
    gaps = (hz < 850) | ((hz > 1150) & (hz < 1750)) | (hz > 3400)
    assert power[gaps].sum() < 1e-4 * power.sum()


def test_stretch_passes_through_its_points():
    curve = np.array([0.0, 1.0, -1.0, 2.0])
    stretched = stretch(curve, 300)
    np.testing.assert_allclose(stretched[[0, 100, 200]], curve[:3], atol=1e-6)
    assert stretched[150] == pytest.approx(0.0, abs=1e-6)


def test_noise_has_its_spectrum():
    rng = np.random.default_rng(0)
    noise = shaped(rng, 1 << 16, RATE, tilted(-6))
    shares = 10 * np.log10(long_term(noise))
    # An octave has twice the bandwidth of the one below: +3 dB, less 6.
    np.testing.assert_allclose(np.diff(shares), -3, atol=0.6)
    narrow = long_term(shaped(rng, 1 << 16, RATE, band(1400, 0.5)))
    assert narrow.argmax() == 3 and narrow[3] > 0.7


def test_a_room_keeps_what_is_dry_and_decays():
    click = np.zeros(RATE, np.float32)
    click[0] = 1
    room = reverberate(np.random.default_rng(0), click, RATE, 0.4, 0.5)
    assert room[0] == pytest.approx(0.5, abs=1e-3)
    early, late = (float((room[a:b] ** 2).sum()) for a, b in ((800, 1600), (4800, 5600)))
    assert late < 0.1 * early and np.abs(room[6500:]).max() < 1e-6
