"""Beats: the tracker, grids, features, and files of beats."""

from __future__ import annotations

import re
import weakref
from itertools import pairwise

import numpy as np
import pytest

from latentdiff import synth
from latentdiff.conditions.beat_tracker import SAMPLE_RATE, find_beats
from latentdiff.conditions.beats import (
    BeatGrid,
    beat_features,
    beats_of,
    parse_bpm,
    read_beats,
    steady,
)
from latentdiff.errors import UserError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def in_blocks(audio, size=100_000):
    return [audio[None, start : start + size] for start in range(0, len(audio), size)]


def at_tempi(tempi, seconds, rng):
    """Drums: a low thump on each first beat, a click on the others and softly on each eighth."""
    audio = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    time = np.arange(2000) / SAMPLE_RATE
    click = rng.standard_normal(2000) * np.exp(-time / 0.01)
    thump = np.sin(2 * np.pi * 60 * time) * np.exp(-time / 0.03)
    beats = [0.3]
    while beats[-1] < seconds:
        beats.append(beats[-1] + 60 / tempi(beats[-1]))
    for index, (beat, following) in enumerate(pairwise(beats)):
        for at, sound in (
            (beat, 0.4 * click + (index % 4 == 0) * thump),
            ((beat + following) / 2, 0.1 * click),
        ):
            start = int(at * SAMPLE_RATE)
            part = audio[start : start + len(sound)]
            part += sound[: len(part)].astype(np.float32)
    return audio, np.array(beats[:-1])


@pytest.mark.parametrize(("index", "seed"), [(0, 3), (1, 3), (2, 3), (7, 4)])
def test_beats_and_bars_of_music_of_known_tempo(index, seed):
    audio = synth.compose(seed, index, SAMPLE_RATE)
    tempo = synth.tempo(seed, index)
    grid = find_beats(in_blocks(audio))
    assert grid.bpm == pytest.approx(tempo, rel=0.003)
    bars = 240 / tempo * np.arange(1, 7)
    late = (grid.bars(bars) + 0.5) % 1 - 0.5
    assert np.abs(late).max() < 0.03  # the piece begins with a bar


def test_a_tempo_that_drifts_is_followed(rng):
    audio, beats = at_tempi(lambda time: 100 + time, 24, rng)
    grid = find_beats(in_blocks(audio))
    inner = beats[2:-2]
    found = grid.times[np.abs(grid.times[:, None] - inner).argmin(axis=0)]
    assert np.abs(found - inner).max() < 0.03
    np.testing.assert_allclose(grid.tempo(inner[4:-4]), 100 + inner[4:-4], rtol=0.03)
    downbeats = beats[4:-4:4]
    late = (grid.bars(downbeats) + 0.5) % 1 - 0.5
    assert np.abs(late).max() < 0.05


def test_how_the_audio_is_cut_makes_no_difference(rng):
    audio, _ = at_tempi(lambda time: 110, 10, rng)
    whole = find_beats([audio[None]])
    pieces = find_beats(np.split(audio[None], np.cumsum(rng.integers(1, 9000, 40)), axis=1))
    np.testing.assert_allclose(pieces.times, whole.times, atol=1e-6)
    np.testing.assert_allclose(pieces.positions, whole.positions)
    assert pieces.confidence == pytest.approx(whole.confidence)


def test_hardly_any_audio_is_held():
    alive = []

    def blocks():
        for _ in range(800):
            block = np.zeros((1, 600), np.float32)
            alive.append(weakref.ref(block))
            yield block
            del block
            assert sum(ref() is not None for ref in alive) < 30

    assert find_beats(blocks()) is None


@pytest.fixture
def beatless(rng):
    seconds = np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE
    noise = rng.standard_normal(len(seconds))
    syllables = np.zeros(len(seconds))
    starts = np.cumsum(rng.gamma(8, 0.22 / 8, 50))  # like speech: alike, and never in step
    for start in (starts[starts < 11.5] * SAMPLE_RATE).astype(int):
        syllables[start : start + 4000] += np.hanning(4000)
    return {
        "silence": np.zeros(len(seconds)),
        "noise": 0.1 * noise,
        "tone": 0.3 * np.sin(2 * np.pi * 440 * seconds),
        "syllables": 0.1 * noise * syllables,
        "short": 0.1 * noise[:1000],
        "nothing": np.zeros(0),
    }


@pytest.mark.parametrize("name", ["silence", "noise", "tone", "syllables", "short", "nothing"])
def test_what_has_no_beat_gets_none(beatless, name):
    assert find_beats(in_blocks(beatless[name].astype(np.float32))) is None


def test_positions_between_before_and_after_beats():
    grid = BeatGrid.in_fours(np.array([1.0, 1.5, 2.0, 2.5, 3.0]), downbeat=2)
    np.testing.assert_allclose(grid.bars([0, 1, 1.25, 2, 3, 4]), [-1, -0.5, -0.375, 0, 0.5, 1])
    assert grid.bpm == 120
    np.testing.assert_allclose(grid.tempo([-5, 2, 50]), 120)
    np.testing.assert_allclose(grid.shifted(2).bars([0, 1]), [0, 0.5])


def test_features_are_phases_and_tempo_below_half_the_frame_rate():
    features = beat_features([0, 0.125, 0.5], [60, 120, 240], frame_rate=9)
    assert features.shape == (11, 3) and features.dtype == np.float32
    np.testing.assert_allclose(features[0], np.sin([0, np.pi / 4, np.pi]), atol=1e-6)
    np.testing.assert_allclose(features[5], [1, -1, 1], atol=1e-6)
    np.testing.assert_allclose(features[10], [-1, 0, 1])
    # 8 cycles of a bar are 2, 4 and 8 Hz; 16 are 4, 8, 16 Hz; frames show up to 4.5 Hz.
    np.testing.assert_allclose(features[7], [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(features[9], [1, 0, 0], atol=1e-5)


def test_a_constant_tempo():
    bars, bpm = steady(120, None, frames=50, frame_rate=10)
    np.testing.assert_allclose(bars, (np.arange(50) + 0.5) / 20)
    np.testing.assert_allclose(bpm, 120)


def test_a_tempo_that_moves_is_integrated_exactly():
    bars, bpm = steady(90, 140, frames=1000, frame_rate=100)
    assert bpm[0] == pytest.approx(90, rel=1e-3) and bpm[-1] == pytest.approx(140, rel=1e-3)
    np.testing.assert_allclose(np.diff(np.log(bpm), 2), 0, atol=1e-9)
    middles = np.sqrt(bpm[1:] * bpm[:-1])
    np.testing.assert_allclose(np.diff(bars), middles / 240 / 100, rtol=1e-6)


def test_tempi_as_typed():
    assert parse_bpm("125") == (125, None)
    assert parse_bpm("90:140.5") == (90, 140.5)


@pytest.mark.parametrize(
    "text", ["", "fast", "nan", "inf", "19", "401", "90:", "1:2:3", "90:100:9"]
)
def test_what_is_no_tempo_is_refused(text):
    with pytest.raises(UserError, match="is not a tempo"):
        parse_bpm(text)


@pytest.fixture
def beats_file(tmp_path):
    def write(content):
        path = tmp_path / "beats.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_beats_from_a_file(beats_file):
    rows = ["key,time,beat,note", "a.wav,0.5,3,x", "b/c.wav,1,1,", "a.wav,1.0,4,", "a.wav,1.5,1,"]
    grids = read_beats(beats_file("\n".join([*rows, "b/c.wav,3,1,", "b/c.wav,5,1,"])))
    assert list(grids) == ["a.wav", "b/c.wav"]
    np.testing.assert_allclose(grids["a.wav"].positions, [0.5, 0.75, 1])
    assert grids["a.wav"].bpm == 120 and grids["a.wav"].confidence == 1
    # Downbeats alone are enough.
    np.testing.assert_allclose(grids["b/c.wav"].positions, [0, 1, 2])
    assert grids["b/c.wav"].bpm == 120


def test_without_numbers_the_first_beat_begins_a_bar(beats_file):
    grid = read_beats(beats_file("key,time\r\na,1\r\na,2\r\na,3\r\n"))["a"]
    np.testing.assert_allclose(grid.positions, [0, 0.25, 0.5])


def test_parts_of_a_recording_have_its_beats(beats_file):
    grids = read_beats(beats_file("key,time\na.wav,1\na.wav,2\n"))
    assert beats_of("a.wav", 0, grids) is grids["a.wav"]
    np.testing.assert_allclose(beats_of("a validation.wav", 60, grids).times, [-59, -58])
    assert beats_of("b.wav", 0, grids) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column key and no column time"),
        ("key,beat\na,1", "no column time"),
        ("key,time\n", "no rows"),
        ("key,time\na,1\na,x", "line 3.*\n.*'x' is not a time"),
        ("key,time\na,1\na,nan", "'nan' is not a time"),
        ("key,time\na,1\na", "line 3"),
        ("key,time\na,2\na,2", "2 s is not after the beat at 2 s"),
        ("key,time,beat\na,1,5\n", "'5' is not the number of a beat"),
        ("key,time,beat\na,1\n", "'' is not the number of a beat"),
        ("key,time\na,1\n", "one beat for a"),
        ("key,time\na,1\0\n", "NUL"),
        (b"key,time\n\xff,1\n", "cannot read the beats"),
    ],
)
def test_files_that_hold_no_beats_are_refused(beats_file, content, message):
    with pytest.raises(UserError) as error:
        read_beats(beats_file(content))
    assert re.search(message, str(error.value)), error.value


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot read the beats"):
        read_beats(tmp_path / "none.csv")
