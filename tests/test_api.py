"""`import latentdiff`: the examples in the docstrings, on a real (tiny, untrained) RAVE."""

from __future__ import annotations

import base64
import doctest
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import latentdiff
from latentdiff import api, config, runs
from latentdiff.audio.limiter import Limiter
from latentdiff.commands.encode import encode
from latentdiff.errors import ConfigError, UserError
from latentdiff.latents.store import CodecFacts
from latentdiff.model.project import Project
from latentdiff.rave.codec import RaveCodec
from latentdiff.training import checkpoint

MEL = {"sample_rate": 8000, "n_fft": 256, "hop": 100, "bands": 5}


@pytest.fixture(scope="module")
def rave(rave_run):
    (path,) = (rave_run / "version_0" / "checkpoints").glob("*.ckpt")
    return path


@pytest.fixture(scope="module")
def facts(rave):
    return CodecFacts(RaveCodec.open(rave).fingerprint, 8000, 64, 6, 1)


@pytest.fixture
def load(tmp_path, make_model, rave, facts):
    """Loads a run whose model has random weights; options are those of `make_model`."""

    def load(**options):
        path = checkpoint.best(runs.Run(tmp_path / "run").diffusion)
        make_model(path, **{"codec": facts, "codec_path": str(rave), "gain": 0.05, **options})
        return latentdiff.load(tmp_path / "run", device="cpu")

    return load


def test_the_examples_of_the_docstrings(load, tmp_path, audio_folder, rave_run):
    run = runs.Run(tmp_path / "run")
    encode(run, config.build(Project, {}), audio=[audio_folder], rave=rave_run)
    globs = {"model": load(), "np": np, "run": run.root, "folder": tmp_path}
    finder = doctest.DocTestFinder()
    found = [
        test
        for module in (api, latentdiff)
        for test in finder.find(module, module.__name__, globs={**vars(module), **globs})
    ]
    examples = [test for test in found if test.examples]
    public = {"load", "Clips", "save", "sample", "sample_latents", "encode", "decode", "evaluate"}
    assert public <= {test.name.split(".")[-1] for test in examples}
    for test in examples:
        failed, _ = doctest.DocTestRunner(verbose=False).run(test)
        assert not failed, test.name


def test_importing_needs_no_torch():
    code = "import sys, latentdiff; latentdiff.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_clip_depends_on_its_seed_alone(load):
    model = load()
    pair = model.sample(seconds=0.5, n=2, seed=3, steps=4)
    alone = model.sample(seconds=0.5, seed=4, steps=4)
    assert pair.sample_rate == model.sample_rate == 8000
    np.testing.assert_allclose(pair[1], alone[0], atol=1e-4)
    assert np.abs(pair[0] - pair[1]).max() > 0
    assert np.asarray(pair).shape == pair.shape and len(pair) == 2


def test_latents_go_to_sound_and_back(load, tmp_path, write_wav, melody):
    model = load()
    path = write_wav(tmp_path / "song.wav", melody(1))
    latents = model.encode(path)
    assert latents.shape == (6, 125)
    samples, rate = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(latents, model.encode(samples, rate))
    assert model.decode(latents).shape == (1, 1, 8000)
    with pytest.raises(UserError, match="1 channel"):
        model.encode(np.zeros((2, 800), np.float32))
    with pytest.raises(UserError, match="8000 Hz"):
        model.encode(samples, 44100)
    with pytest.raises(UserError, match="transpose"):
        model.decode(latents.T)


def test_clips_are_saved_and_nothing_is_overwritten(load, tmp_path):
    clips = load().sample(seconds=0.25, n=2, steps=2)
    assert [p.name for p in clips.save(tmp_path / "out")] == ["0.wav", "1.wav"]
    assert [p.name for p in clips.save(tmp_path / "x.flac")] == ["x-0.flac", "x-1.flac"]
    sound, rate = soundfile.read(tmp_path / "out" / "1.wav")
    limited = np.concatenate(list(Limiter(rate)([clips[1]])), axis=1)
    np.testing.assert_allclose(sound, limited[0], atol=2e-4)
    assert rate == 8000
    with pytest.raises(UserError, match="exists already"):
        clips.save(tmp_path / "out")
    clips.save(tmp_path / "out", overwrite=True)


def test_a_notebook_shows_a_player_for_each_clip(load):
    clips = load().sample(seconds=0.25, n=2, steps=2)
    html = clips._repr_html_()
    assert html.count("<audio controls") == 2
    data = base64.b64decode(html.split("base64,")[1].split('"')[0])
    assert data[:4] == b"RIFF"


def test_conditions_and_settings_are_checked(load, tmp_path, write_wav, melody):
    model = load(condition={"kinds": "both", "mel": MEL}, labels=["drums", "strings"])
    song = write_wav(tmp_path / "song.wav", melody(1))
    assert model.labels == ["drums", "strings"]
    clips = model.sample(0.5, n=2, condition=[song, "drums"], steps=2, guidance=2.0)
    assert clips.shape[:2] == (2, 1)
    with pytest.raises(UserError, match="has no label"):
        model.sample(0.5, condition=[song, "drum"])
    with pytest.raises(UserError, match="one condition at a time"):
        model.sample(0.5, condition=[song, "drums", "strings"])
    with pytest.raises(ConfigError, match="stepz"):
        model.sample(0.5, stepz=3)
    with pytest.raises(ConfigError, match="eta: not read by sampler=heun"):
        model.sample(0.5, sampler="heun", eta=0.5)


def test_a_missing_codec_raises(load, rave):
    gone = load(codec_path="/nowhere/best.ckpt")
    with pytest.raises(UserError, match=r"was not found[\s\S]*rave=\.\.\."):
        gone.decode(np.zeros((6, 10), np.float32))
    moved = latentdiff.load(gone.model.path, rave=rave.parent.parent.parent)
    assert moved.decode(np.zeros((6, 10), np.float32)).shape == (1, 1, 640)


def test_a_run_without_a_model_raises(tmp_path):
    with pytest.raises(UserError, match="no diffusion checkpoint"):
        latentdiff.load(tmp_path)


def test_drawing_changes_no_global_state(load):
    model = load()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.sample(0.25, steps=2)
    assert torch.equal(before, torch.get_rng_state())


def test_evaluate_writes_nothing(tmp_path, make_model, make_store):
    path = checkpoint.best(runs.Run(tmp_path / "run").diffusion)
    make_model(path)
    latents = make_store(tmp_path / "latents", files=10)
    before = sorted(tmp_path.rglob("*"))
    model = latentdiff.load(tmp_path / "run", device="cpu")
    result = model.evaluate(n=4, seconds=0.5, latents=latents, compare_steps=[2], steps=4)
    assert sorted(tmp_path.rglob("*")) == before
    assert (result.samples, result.calls, result.steps[0].calls) == (4, 4, 2)
    assert result.held_out is not None and result.sound is None
    assert "codec is unknown" in result.skipped[0]
