"""Conditions from recordings to samples: found by `encode`, learned, and asked for by `sample`."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from latentdiff import config, runs
from latentdiff.commands.encode import encode
from latentdiff.commands.sample import sample
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model import condition_inputs
from latentdiff.model.condition_inputs import ConditionInput, stored_input
from latentdiff.model.condition_maker import ConditionMaker
from latentdiff.model.data import windows_of
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.training import checkpoint

RATE = 8000
TEMPI = {"fast.wav": 125, "middle.wav": 100, "slow.wav": 80}
"""Of the recordings, in bpm."""
SMALL = {
    "data": {"sample_rate": RATE},
    "network": {"name": "tiny", "channels": 16},
    "training": {"steps": 20, "batch": 8, "window": 32},
    "sampling": {"steps": 4},
    "device": "cpu",
}


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def project(**sections):
    return config.build(Project, config.merge(SMALL, sections))


def drums(bpm, seconds=9.0, seed=0):
    """A click on each beat, with a thump on the first of four."""
    rng = np.random.default_rng(seed)
    time = np.arange(RATE // 5) / RATE
    click = 0.4 * rng.standard_normal(len(time)) * np.exp(-time / 0.01)
    thump = np.sin(2 * np.pi * 60 * time) * np.exp(-time / 0.05)
    audio = np.zeros(round(seconds * RATE) + len(time), np.float32)
    for index, start in enumerate(np.arange(0, seconds, 60 / bpm)):
        at = round(start * RATE)
        audio[at : at + len(time)] += click + (index % 4 == 0) * thump
    return 0.4 * audio


@pytest.fixture
def encoded(run, codec, tmp_path, write_wav):
    """A run with the latents of drums at three tempi, and of noise without a beat."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(9 * RATE)
    write_wav(tmp_path / "in" / "noise.wav", noise)
    for seed, (name, bpm) in enumerate(TEMPI.items()):
        write_wav(tmp_path / "in" / name, drums(bpm, seed=seed))
    assert encode(run, project(), rave=tmp_path, audio=[tmp_path / "in"]) == []
    (held_out,) = LatentStore.open(run.latents).of("validation")
    assert held_out.key == "fast.wav"
    return run


def latents(run, name):
    return {path.stem: np.load(path) for path in sorted((run.samples / name).glob("*.npy"))}


def best(run):
    return Model.load(checkpoint.find(run.diffusion))


def test_a_tempo_from_the_recordings_to_the_samples(encoded):
    run, store = encoded, LatentStore.open(encoded.latents)
    beats = {entry.key: store.features(entry, "beat") for entry in store.entries}
    frames = {entry.key: entry.frames for entry in store.entries}
    assert beats["noise.wav"] is None
    for key, bpm in TEMPI.items():
        assert beats[key].shape == (11, frames[key])
        assert 120 * 2 ** np.median(beats[key][-1]) == pytest.approx(bpm, rel=0.01)

    train_diffusion(run, project())
    model = best(run)
    assert model.condition.kinds == ("style", "beat")
    windows = windows_of(model, store, "train").spread(30)
    assert windows.condition.given["beat"].tolist() == [
        store.of("train")[f].key != "noise.wav" for f in windows.files
    ]
    tempi = [model.references.at(k)["beat"] for k in range(3)]
    assert sorted(float(x[0]) for x in tempi if x is not None) == pytest.approx([80, 100], rel=0.01)

    settings = project(seed=1)
    for name, bpm in (("first", "90"), ("again", "90"), ("other", "140")):
        sample(
            run, settings, n=1, seconds=1, options={"bpm": [bpm], "style": ["middle"]}, name=name
        )
    first, again, other = (
        next(iter(latents(run, k).values())) for k in ("first", "again", "other")
    )
    assert np.array_equal(first, again) and not np.allclose(first, other, atol=1e-3)
    info = runs.require_done(run.samples / "first", "samples", "sample")
    assert info.config["bpm"] == ["90"] and info.config["style"] == ["middle"]
    with pytest.raises(UserError, match="made with other settings"):
        sample(run, settings, n=1, seconds=1, options={"bpm": ["91"]}, name="first")


def test_the_beats_of_a_recording_are_those_of_its_latents(encoded, tmp_path):
    train_diffusion(encoded, project())
    model, store = best(encoded), LatentStore.open(encoded.latents)
    (entry,) = (e for e in store.entries if e.key == "slow.wav")
    asked = {"beats": [str(tmp_path / "in" / "slow.wav")], "style": ["middle"]}
    made = ConditionMaker(model, asked).complete(ConditionInput(), 0, entry.frames)
    stored = model.standardisers["beat"](store.features(entry, "beat"))
    np.testing.assert_allclose(made.features["beat"], stored, atol=1e-4)
    asked["beats"] = [str(tmp_path / "in" / "noise.wav")]
    with pytest.raises(UserError, match="no beat was found"):
        ConditionMaker(model, asked).complete(ConditionInput(), 0, entry.frames)


def test_a_held_out_file_is_read_once_for_its_style(encoded, monkeypatch):
    train_diffusion(encoded, project(condition={"kinds": "style"}))
    model, store = best(encoded), LatentStore.open(encoded.latents)
    read, inner = [], condition_inputs.final_latents

    def final_latents(model, store, entry):
        read.append(entry.key)
        return inner(model, store, entry)

    monkeypatch.setattr(condition_inputs, "final_latents", final_latents)
    (entry,) = store.of("validation")
    first, second = (stored_input(model, store, entry, at, 8).features["style"] for at in (0, 8))
    assert read == [entry.key]
    np.testing.assert_array_equal(first, second)


def test_a_recording_is_followed_in_all_that_it_has(encoded, codec, tmp_path):
    train_diffusion(encoded, project(condition={"kinds": "style,beat,mel"}))
    model, store = best(encoded), LatentStore.open(encoded.latents)

    def followed(name, codec=codec, **options):
        maker = ConditionMaker(model, options, lambda: codec)
        (given,), _ = maker.given([tmp_path / "in" / name], None)
        return maker.complete(given, 0, given.frames).features

    (entry,) = (e for e in store.entries if e.key == "slow.wav")
    stored = stored_input(model, store, entry, 0, entry.frames).features
    made = followed("slow.wav")
    assert set(made) == set(stored) == {"style", "beat", "mel"}
    for kind, features in stored.items():
        np.testing.assert_allclose(made[kind], features, atol=1e-3)
    # What it lacks is not made up, nor guessed without the codec.
    assert set(followed("noise.wav")) == {"style", "mel"}
    assert set(followed("slow.wav", codec=None)) == {"beat", "mel"}
    # What is asked for wins.
    other = followed("slow.wav", style=["middle"], bpm=["90"])
    assert np.allclose(other["mel"], made["mel"])
    assert not np.allclose(other["style"], made["style"])
    assert not np.allclose(other["beat"], made["beat"])


def test_without_any_beat_style_alone_is_followed(run, codec, tmp_path, write_wav, caplog):
    rng = np.random.default_rng(0)
    for k in range(3):
        write_wav(tmp_path / "in" / f"{k}.wav", 0.1 * rng.standard_normal(4 * RATE))
    encode(run, project(), rave=tmp_path, audio=[tmp_path / "in"])
    with caplog.at_level(logging.WARNING, logger="latentdiff"):
        train_diffusion(run, project())
    assert "trained without the condition beat: no training file has a beat" in caplog.text
    assert best(run).condition.kinds == ("style",)
    with pytest.raises(UserError, match="cannot follow the beat"):
        train_diffusion(
            Run(tmp_path / "b"), project(condition={"kinds": "beat"}), latents=run.latents
        )


@pytest.mark.real
def test_a_recording_has_the_style_of_its_latents(run, rave_run, audio_folder):
    settings = project(condition={"kinds": "style"})
    encode(run, settings, rave=rave_run, audio=[audio_folder])
    train_diffusion(run, settings)
    song = str(audio_folder / "a" / "tune 2.wav")
    for name, style in (("path", song), ("key", "a/tune 2"), ("other", "b/tune 5.wav")):
        sample(run, settings, n=1, seconds=1, options={"style": [style]}, name=name)
    path, key, other = (next(iter(latents(run, k).values())) for k in ("path", "key", "other"))
    np.testing.assert_allclose(path, key, atol=5e-4 * np.abs(key).max())
    assert np.abs(other - key).max() > 3e-3 * np.abs(key).max()
