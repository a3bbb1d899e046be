"""The synthesiser of quickstart: music by measures that distinguish it from noise and silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentdiff import synth
from latentdiff.audio.resample import resample
from latentdiff.conditions.beat_tracker import SAMPLE_RATE, find_beats
from latentdiff.evaluation.rhythm import periodicity_at
from latentdiff.synth import band

RATE = 16000


@pytest.fixture(scope="module")
def pieces():
    return [synth.compose(0, index, RATE) for index in range(8)]


def spectrum(samples):
    """Power [frames, bins] of windows of 64 ms."""
    frames = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
    return np.abs(np.fft.rfft(frames)) ** 2


def test_the_same_seed_gives_the_same_music_and_another_seed_another():
    first = synth.compose(3, 1, RATE, seconds=6)
    np.testing.assert_array_equal(first, synth.compose(3, 1, RATE, seconds=6))
    assert not np.array_equal(first[:RATE], synth.compose(4, 1, RATE, seconds=6)[:RATE])


def test_level_and_length(pieces):
    for samples in pieces:
        assert samples.dtype == np.float32 and samples.ndim == 1
        assert 19 <= len(samples) / RATE <= 29
        assert -18 < 10 * np.log10(np.mean(samples**2)) < -14
        assert np.abs(samples).max() < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_tempi_are_spread_evenly_in_all_pieces_and_in_each_style(seed):
    octaves = np.log2([synth.tempo(seed, index) for index in range(synth.TEMPI)])
    whole = np.log2(synth.FASTEST / synth.SLOWEST)
    for every in (1, len(synth.STYLES)):
        for first in range(every):
            some = np.sort(octaves[first::every])
            assert some[0] >= np.log2(synth.SLOWEST) and some[-1] <= np.log2(synth.FASTEST)
            # Each in its own part of the range: two neighbours are less than two parts apart.
            assert np.diff(some).max() < (1 + 1 / every) * every * whole / synth.TEMPI
            assert some[-1] - some[0] > 0.6 * whole


def test_every_piece_repeats_from_beat_to_beat_at_its_tempo_only(pieces):
    for index, samples in enumerate(pieces):
        clip, bpm = torch.from_numpy(samples)[None], synth.tempo(0, index)
        assert periodicity_at(clip, RATE, bpm).item() > 0.75
        assert periodicity_at(clip, RATE, 1.2 * bpm).item() < 0.3


@pytest.mark.parametrize("index", range(len(synth.STYLES)))
def test_beats_and_downbeats_are_found_where_they_are(pieces, index):
    grid = find_beats(resample([pieces[index][None]], RATE, SAMPLE_RATE))
    bar = 240 / synth.tempo(0, index)
    assert grid is not None and grid.bpm == pytest.approx(240 / bar, rel=0.01)
    positions = grid.bars(np.arange(0, 18, bar))
    np.testing.assert_allclose(positions, np.round(positions), atol=0.02)


def test_pieces_differ_in_pitch(pieces):
    players = [band._Player(0, index, RATE, 24) for index in range(8)]
    assert len({player.root for player in players}) >= 4
    chroma = [spectrum(samples).mean(0)[4:128] for samples in pieces]
    alike = np.corrcoef(np.log(chroma))
    assert alike[np.triu_indices(8, 1)].max() < 0.97


def test_it_is_neither_noise_nor_one_loop(pieces):
    for samples in pieces:
        power = spectrum(samples) + 1e-9
        flatness = np.exp(np.log(power).mean(1)) / power.mean(1)
        assert np.median(flatness) < 0.05  # white noise: 0.56
        loudness = 10 * np.log10(power.sum(1))
        assert loudness.std() > 1.5  # beats and breaks
        half = len(samples) // 2  # of a loop, both halves are one
        assert abs(np.corrcoef(samples[:half], samples[half : 2 * half])[0, 1]) < 0.9


def test_every_layer_sounds_where_the_form_wants_it():
    player = band._Player(0, 0, RATE, 24)
    layers = player.play()
    bar = round(16 * player.step * RATE)
    playing = band._bar_layers(player.bars)
    assert set().union(*playing) == set(layers)
    for name, samples in layers.items():
        for index, names in enumerate(playing):
            sounding = np.abs(samples[index * bar : (index + 1) * bar]).max() > 1e-3
            # What rings over the bar line may sound on, but nothing that plays is silent.
            assert sounding or name not in names, (name, index)
        assert np.abs(samples).max() > 0.1


@pytest.mark.parametrize("rate", [8000, 48000])
def test_a_tone_does_not_alias(rate):
    tone = band._harmonics(1000.0, 1.0, rate, slope=0.5, damping=0.0)
    power = np.abs(np.fft.rfft(tone * np.hanning(len(tone)))) ** 2
    harmonic = np.zeros(len(power), dtype=bool)
    for h in range(1, 24):
        harmonic[max(0, h * 1000 - 4) : h * 1000 + 5] = True
    assert power[~harmonic].sum() < 1e-6 * power.sum()
