"""Mel spectrograms, resampling along time, standardisation, labels."""

from __future__ import annotations

import numpy as np
import pytest

from latentdiff.conditions.labels import label_index, label_names, labels_for, read_labels
from latentdiff.conditions.mel import mel_of_blocks
from latentdiff.conditions.resample import resample_blocks, resample_time
from latentdiff.conditions.settings import ConditionConfig, MelConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.config import build
from latentdiff.errors import ConfigError, UserError

CONFIG = MelConfig()


def sine(hertz: float, seconds: float, level: float = 1.0) -> np.ndarray:
    t = np.arange(round(seconds * CONFIG.sample_rate)) / CONFIG.sample_rate
    return (level * np.sin(2 * np.pi * hertz * t)).astype(np.float32)[None]


def test_mel_has_the_documented_length_range_and_pitch():
    audio = sine(1000, 1.0)
    mel = mel_of_blocks([audio], CONFIG)
    assert mel.shape == (80, 1 + audio.shape[1] // CONFIG.hop)
    assert mel.dtype == np.float32
    assert 0 <= mel.min() <= mel.max() <= 1
    low, high = (2595 * np.log10(1 + f / 700) for f in (20, 11025))
    band = (2595 * np.log10(1 + 1000 / 700) - low) / (high - low) * 81 - 1
    assert abs(mel[:, 40].argmax() - band) < 1


def test_mel_scale_is_a_hundredth_a_decibel():
    loud, soft = (
        mel_of_blocks([sine(1000, 1.0, level)], CONFIG)[:, 40].max() for level in (0.1, 0.01)
    )
    assert loud - soft == pytest.approx(0.2, abs=1e-3)
    assert mel_of_blocks([sine(1000, 1.0, 1.0)], CONFIG)[:, 40].max() == pytest.approx(1, abs=0.01)
    assert mel_of_blocks([np.zeros((1, 4096), np.float32)], CONFIG).max() == 0


@pytest.mark.parametrize("cuts", [[1], [100, 101, 5000], [255, 256, 257, 1023, 1024], [22000]])
def test_streamed_mel_equals_the_whole(cuts):
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 22050)).astype(np.float32)
    whole = mel_of_blocks([audio], CONFIG)
    pieces = mel_of_blocks(np.split(audio, cuts, axis=1), CONFIG)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 255, 256, 511, 512, 513, 1024])
@pytest.mark.parametrize("n_fft", [512, 511])
def test_short_audio_has_frames_too(samples, n_fft):
    config = MelConfig(n_fft=n_fft, hop=200, bands=20)
    mel = mel_of_blocks([np.ones((1, samples), np.float32)], config)
    assert mel.shape == (20, 1 + samples // 200)


def test_mel_averages_the_channels():
    audio = np.concatenate([sine(500, 0.5), -sine(500, 0.5)])
    assert mel_of_blocks([audio], CONFIG).max() == 0


@pytest.mark.parametrize("ratio", [0.3, 1.0, 1.7, 4.0])
def test_resampling_keeps_a_ramp_in_place(ratio):
    ramp = np.arange(101, dtype=np.float32)[None]
    frames = int(100 // ratio)
    # Target j stands for j * ratio .. (j + 1) * ratio: its mean is the middle of that time.
    middle = (np.arange(frames) + 0.5) * ratio
    np.testing.assert_allclose(resample_time(ramp, frames, ratio)[0], middle, atol=0.26)
    if ratio in (0.3, 4.0):
        np.testing.assert_allclose(resample_time(ramp, frames, ratio)[0], middle, atol=1e-4)


def test_resampling_averages_all_it_covers_and_holds_the_end():
    features = np.array([[0, 4, 8, 4, 0, 6]], np.float32)
    # 0..2 covers half of feature 0, feature 1, half of feature 2.
    np.testing.assert_allclose(resample_time(features, 5, 2.0), [[4, 4, 4.5, 6, 6]])
    np.testing.assert_allclose(resample_time(features, 20, 0.5)[0, -8:], 6)
    np.testing.assert_allclose(resample_time(features[:, :1], 3), 0)


def test_resampling_by_length_alone_fills_the_time():
    ramp = np.arange(41, dtype=np.float32)[None]
    np.testing.assert_allclose(resample_time(ramp, 10)[0], np.arange(10) * 4 + 2, atol=1e-5)
    with pytest.raises(ValueError, match="no feature frames"):
        resample_time(np.zeros((3, 0), np.float32), 4)


def test_standardised_features_have_unit_variance_and_come_from_the_statistics():
    rng = np.random.default_rng(0)
    files = [(rng.normal(3, 2, (4, n))).astype(np.float32) for n in (50, 500)]
    for features in files:
        features[3] = 0.7
    standardise = Standardiser.fit(iter(files))
    joined = standardise(np.concatenate(files, axis=1))
    np.testing.assert_allclose(joined.mean(1), 0, atol=1e-3)
    np.testing.assert_allclose(joined.std(1)[:3], 1, atol=1e-4)
    assert np.abs(joined[3]).max() < 1e-3
    again = Standardiser.from_arrays(standardise.arrays())
    np.testing.assert_array_equal(again(files[0]), standardise(files[0]))


@pytest.mark.parametrize("files", [[], [np.full((2, 3), np.nan, np.float32)]])
def test_features_that_cannot_be_standardised_are_reported(files):
    with pytest.raises(UserError, match="cannot be used"):
        Standardiser.fit(files)


def test_labels():
    names = label_names(["techno", "jazz", "techno"])
    assert names == ["jazz", "techno"]
    assert label_index("techno", names) == 1
    with pytest.raises(UserError, match="did you mean 'techno'"):
        label_index("tekno", names)


@pytest.mark.parametrize("labels", [[], ["a", "a"], ["a", "b", None], [None]])
def test_uninformative_labels_are_refused(labels):
    with pytest.raises(UserError, match="cannot be conditioned on labels"):
        label_names(labels)


@pytest.mark.parametrize(
    "mel", [{"f_max": 20000}, {"f_min": 12000}, {"hop": 2048}, {"f_min": 500, "f_max": 400}]
)
def test_impossible_mel_settings_are_refused(mel):
    with pytest.raises(ConfigError):
        build(ConditionConfig, {"mel": mel})


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0, 4.0003, 11.61])
@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_resampling_in_blocks_is_resampling_in_one(ratio, size):
    features = np.random.default_rng(0).random((3, 1000), dtype=np.float32)
    frames = int(1000 / ratio) + 1
    blocks = np.split(features, range(size, 1000, size), axis=1)
    pieces = list(resample_blocks(blocks, frames, ratio))
    joined = np.concatenate(pieces, axis=1)
    np.testing.assert_allclose(joined, resample_time(features, frames, ratio), atol=1e-5)


def test_resampling_nothing_in_blocks():
    with pytest.raises(ValueError, match="no feature"):
        list(resample_blocks([], 3, 2.0))


class TestLabelFiles:
    def test_labels_are_paired_by_key_and_parts_by_their_recording(self, tmp_path):
        path = tmp_path / "labels.csv"
        path.write_text("label,key,note\ndrum,b/x.wav,loud\nvoice,a y.wav,\n", encoding="utf-8")
        labels = read_labels(path)
        assert labels == {"b/x.wav": "drum", "a y.wav": "voice"}
        keys = ["a y.wav", "b/x train.wav", "b/x validation.wav"]
        assert labels_for(keys, labels) == ["voice", "drum", "drum"]

    def test_recordings_without_a_label_are_named(self):
        with pytest.raises(UserError, match="2 of 3 recordings have no label") as error:
            labels_for(["a.wav", "b.wav", "c.wav"], {"b.wav": "drum"})
        assert "a.wav" in str(error.value) and "c.wav" in str(error.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not a file of labels"),
            ("a.wav,drum\n", "not a file of labels"),
            ("key,label\na,x\na,y\n", "two labels for a: 'x' and 'y'"),
        ],
    )
    def test_files_that_cannot_be_used_are_reported(self, tmp_path, text, message):
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_labels(path)
        with pytest.raises(UserError, match="cannot read the labels"):
            read_labels(tmp_path / "none.csv")

    def test_labels_for_a_model_of_none_are_refused(self):
        with pytest.raises(ConfigError, match="not read by conditions of the kinds mel"):
            build(ConditionConfig, {"kinds": "mel", "labels": "labels.csv"})
