"""What is wrong with recordings is said by `preprocess` and `encode`, and healthy ones pass."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from latentdiff import audio, synth
from latentdiff.audio.health import HealthMeter, find_problems
from latentdiff.commands.encode import encode
from latentdiff.commands.preprocess import preprocess
from latentdiff.errors import UserError
from latentdiff.model.project import Project
from latentdiff.runs import Run

RATE = 8000
HELD_OUT = 60.0


def project(**data):
    rate = {"sample_rate": RATE, "chunk": 4096, **data}
    return Project.model_validate({"data": rate})


def measure(blocks, rate=RATE):
    meter = HealthMeter()
    for _ in meter.watch(blocks, rate):
        pass
    return meter.finish()


def problems(sounds, channels=1, held_out=HELD_OUT):
    """Kind -> keys of what is found in sounds [channels, N] by key."""
    files = {key: measure([np.float32(np.atleast_2d(x))]) for key, x in sounds.items()}
    found = find_problems(files, channels=channels, held_out_seconds=held_out)
    assert all(one.text for one in found)
    return {one.kind: one.keys for one in found}


@pytest.fixture
def tunes(melody):
    """Five tunes [N] of 2 s by name, each a little louder than the one before."""
    return {f"{k}.wav": (0.4 + 0.1 * k) * melody(2, seed=k) for k in range(5)}


def sine(hz, seconds=2.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def test_healthy_music_passes(tunes):
    assert problems(tunes) == {}
    pieces = {f"{k}": synth.compose(0, k, RATE, seconds=24) for k in range(4)}
    assert problems(pieces) == {}


def test_sine_waves_pass_but_infrasonic_ones():
    waves = {f"{hz}": sine(hz) for hz in (60, 220, 1000, 3000)}
    assert problems(waves) == {}
    assert problems({**waves, "35": sine(35)}) == {"infrasonic": ("35",)}


SPOILT = {
    "silent": lambda x: 1e-4 * x,
    "mostly-silence": lambda x: np.where(np.arange(len(x)) < 0.1 * len(x), x, 0),
    "infrasonic": lambda x: 0.2 * x + sine(25),
    "clipped": lambda x: np.clip(8 * x, -0.7, 0.7),
    "loud": lambda x: 12 * x,
    "out-of-phase": lambda x: np.stack([x, -x]),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_recording_is_named(tunes, kind):
    found = problems({**tunes, "2.wav": SPOILT[kind](tunes["2.wav"])})
    assert found[kind] == ("2.wav",)
    assert all(keys == ("2.wav",) for keys in found.values())


def test_equal_channels_matter_only_to_stereo(tunes):
    double = {key: np.stack([x, x]) for key, x in tunes.items()}
    assert problems(double, channels=1) == {}
    assert set(problems(double, channels=2)) == {"equal-channels"}


def test_much_silence_and_little_to_validate_on(tunes):
    quiet = {key: np.concatenate([x, np.zeros(3 * len(x))]) for key, x in tunes.items()}
    assert problems(quiet) == {"silence": ()}
    assert problems(tunes, held_out=3.0) == {"held-out": ()}


def test_a_measurement_does_not_depend_on_the_blocks(tunes):
    whole = tunes["3.wav"][None]
    pieces = measure(np.array_split(whole, 5, axis=1))
    assert pieces.sha256 == measure([whole]).sha256
    assert pieces.level_db == pytest.approx(measure([whole]).level_db)


def test_it_sees_the_file_as_it_is_before_it_is_mixed(tmp_path, write_wav, melody):
    tune = melody(1, sample_rate=16000)
    path = write_wav(tmp_path / "wide.wav", np.stack([tune, -tune]), 16000)
    meter = HealthMeter()
    mixed = np.concatenate(list(audio.blocks(path, RATE, 1, meter=meter)), axis=1)
    assert np.abs(mixed).max() < 1e-3
    assert meter.finish().correlation == pytest.approx(-1)
    assert meter.finish().seconds == pytest.approx(1)


@pytest.fixture
def music(tmp_path, write_wav, tunes):
    for key, tune in tunes.items():
        write_wav(tmp_path / "music" / key, tune)
    return tmp_path / "music"


def kinds(stage):
    result = json.loads((stage / "run.json").read_text())["result"]
    return {one["kind"]: one["keys"] for one in result["health"]}


def test_preprocess_and_encode_say_and_record_it(codec, tmp_path, music, write_wav, tunes, caplog):
    write_wav(music / "hum.wav", sine(30, 3.0))
    run = Run(tmp_path / "run")
    preprocess(run, project(), audio=[music])
    assert kinds(run.dataset)["infrasonic"] == ["hum.wav"]
    assert "hum.wav" in caplog.text and "below 40 Hz" in caplog.text
    caplog.clear()
    encode(run, project())
    assert kinds(run.latents)["infrasonic"] == ["hum.wav"]
    assert "below 40 Hz" in caplog.text


def test_copies_on_one_side_are_a_warning_and_on_both_an_error(tmp_path, music, write_wav):
    """Also in another format, as the samples are compared."""
    refused = warned = 0
    samples, _ = soundfile.read(music / "3.wav", dtype="int16")
    write_wav(music / "copy.flac", samples)
    for seed in range(8):
        run, settings = Run(tmp_path / f"run{seed}"), project(validation=0.4)
        settings = settings.model_copy(update={"seed": seed})
        try:
            preprocess(run, settings, audio=[music])
        except UserError as error:
            assert "copy.flac is 3.wav" in str(error) or "3.wav is copy.flac" in str(error)
            refused += 1
        else:
            assert kinds(run.dataset)["duplicates"] == ["3.wav = copy.flac"]
            warned += 1
    assert refused and warned


def test_encode_refuses_a_leak_before_it_starts(tmp_path, codec, music, write_wav, tunes):
    for key, tune in tunes.items():
        write_wav(music / f"copy of {key}", tune)
    run, settings = Run(tmp_path / "run"), project(validation=0.3)
    with pytest.raises(UserError, match="also in the training files"):
        encode(run, settings, audio=[music])
    assert not run.latents.exists()
    training = settings.training.model_copy(update={"leaks": "allow"})
    encode(run, settings.model_copy(update={"training": training}), audio=[music])
    result = json.loads((run.latents / "run.json").read_text())["result"]
    assert result["leaks"]
