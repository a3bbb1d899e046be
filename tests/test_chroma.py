"""Chroma of audio and of chords as typed."""

from __future__ import annotations

import numpy as np
import pytest

from latentdiff.conditions.chords import chord_features, parse_chords
from latentdiff.conditions.chroma import ChromaConfig, chroma_blocks
from latentdiff.errors import UserError

CONFIG = ChromaConfig()


def chroma(audio, pieces=1):
    blocks = np.array_split(audio.astype(np.float32)[None], pieces, axis=1)
    return np.concatenate(list(chroma_blocks(blocks, CONFIG)), axis=1)


def notes(pitches, seconds=1.0, slope=1.2):
    """Tones at MIDI pitches with ten harmonics h of amplitude h^-slope."""
    time = np.arange(int(seconds * CONFIG.sample_rate)) / CONFIG.sample_rate
    frequencies = 440 * 2 ** ((np.array(pitches) - 69) / 12)
    return 0.05 * sum(
        h**-slope * np.sin(2 * np.pi * h * frequency * time + h)
        for frequency in frequencies
        for h in range(1, 11)
    )


@pytest.mark.parametrize("pitch", range(57, 81))
def test_a_sine_is_one_pitch_class(pitch):
    time = np.arange(CONFIG.sample_rate) / CONFIG.sample_rate
    audio = 0.1 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)
    middle = chroma(audio)[:, 4:-4]
    assert (middle.argmax(axis=0) == pitch % 12).all() and middle.max() <= 1
    assert (middle.max(axis=0) > 0.95).all()


def test_loudness_is_out_and_quiet_frames_fade_to_zero():
    audio = notes([60, 64, 67])
    loud, soft, silent = (chroma(gain * audio)[:, 4:-4] for gain in (1, 0.3, 1e-6))
    np.testing.assert_allclose(soft, loud, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(loud, axis=0), 1, atol=0.01)
    assert silent.max() < 0.01
    assert chroma(np.zeros(30_000)).max() == 0


@pytest.mark.parametrize("samples", [1, 1023, 1024, 30_000])
def test_how_the_audio_is_cut_makes_no_difference(samples):
    audio = notes([57, 61], seconds=2)[:samples]
    whole, cut = chroma(audio), chroma(audio, pieces=7)
    assert whole.shape == (12, 1 + samples // CONFIG.hop) and whole.dtype == np.float32
    np.testing.assert_allclose(cut, whole, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pitches"),
    [
        ("C", [60, 64, 67]),
        ("Am", [57, 60, 64]),
        ("F#m7", [54, 57, 61, 64]),
        ("Bb", [58, 62, 65]),
        ("Gsus4", [55, 60, 62]),
        ("Edim", [52, 55, 58]),
        ("Dmaj7", [62, 66, 69, 73]),
    ],
)
def test_a_typed_chord_lies_where_a_played_one_does(name, pitches):
    """Over timbres from bright to dull and octaves that the profile was not fitted to."""
    (typed,) = parse_chords(name)
    for slope in (0.9, 1.5):
        for octave in (0, 12):
            played = chroma(notes(np.array(pitches) + octave, slope=slope))[:, 4:-4].mean(axis=1)
            played /= np.linalg.norm(played)
            others = [np.dot(played, np.roll(typed, shift)) for shift in range(1, 12)]
            # Steps by which an equal division of the octave is turned into itself need not differ.
            assert np.dot(played, typed) > max(0.93, *others)


def test_chords_as_typed():
    chords = parse_chords(" Am F | C,G - N")
    assert len(chords) == 6 and all(chord.shape == (12,) for chord in chords)
    assert [float(np.linalg.norm(chord)) for chord in chords] == pytest.approx([1, 1, 1, 1, 0, 0])
    for flat, sharp in (("Db", "C#"), ("Cb", "B"), ("E#", "F"), ("A♭m", "G♯min")):
        np.testing.assert_array_equal(parse_chords(flat), parse_chords(sharp))
    names = "C Cm C7 Cmaj7 Cm7 Cdim Caug Csus2 Csus4"
    assert len(np.unique(np.round(parse_chords(names), 3), axis=0)) == 9


@pytest.mark.parametrize("text", ["H", "am", "C7b9", "Am F Cmadj7", "A##", "N7"])
def test_what_is_no_chord_is_refused(text):
    with pytest.raises(UserError, match="there is no chord") as error:
        parse_chords(text)
    assert "sus2" in error.value.do_this


def test_a_near_miss_gets_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'Cmaj7'"):
        parse_chords("Cmadj7")


@pytest.mark.parametrize("text", ["", "  ", "|,"])
def test_no_chords_are_refused(text):
    with pytest.raises(UserError, match="there are no chords"):
        parse_chords(text)


def test_one_chord_a_bar_and_again():
    chords = parse_chords("C G N")
    features = chord_features(chords, [0, 0.99, 1, 2.5, 3, -0.1])
    assert features.shape == (12, 6) and features.dtype == np.float32
    np.testing.assert_array_equal(features.T, [chords[index] for index in (0, 0, 1, 2, 0, 2)])
