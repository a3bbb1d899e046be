"""Variations of a recording, by the command and from Python."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from latentdiff import config
from latentdiff.cli import cli
from latentdiff.commands.sample import sample
from latentdiff.errors import UserError
from latentdiff.latents.store import CodecFacts
from latentdiff.latents.whitening import Whitening
from latentdiff.model.condition_maker import ConditionMaker
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.variation import Variation
from latentdiff.runs import Run
from latentdiff.training import checkpoint

CODEC = CodecFacts("f" * 64, sample_rate=8000, hop=64, latent_dim=8, channels=1)
MEL = {"sample_rate": 8000, "n_fft": 256, "hop": 100, "bands": 5}


def project(**sampling):
    small = {"network": {"name": "tiny", "channels": 8}, "device": "cpu"}
    return config.build(Project, {**small, "sampling": {"steps": 10, **sampling}})


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def song(tmp_path, write_wav, melody):
    return write_wav(tmp_path / "song.wav", melody(2.0))


@pytest.fixture
def make(run, make_model):
    def make(kinds="none", **options):
        return make_model(
            checkpoint.best(run.diffusion),
            codec=CODEC,
            whitening=Whitening(torch.zeros(8), torch.eye(8)[:3], torch.ones(3)),
            condition={"kinds": kinds, "dropout": 0.1, "mel": MEL},
            **options,
        )

    return make


def latents(run, name):
    return {path.stem: np.load(path) for path in sorted((run.samples / name).glob("*.npy"))}


def test_strength_0_is_the_codecs_and_more_is_farther(run, make, codec, song, tmp_path):
    make()
    raw = codec.encode(torch.from_numpy(_sound(song, codec))[None])[0][0].numpy()
    far = []
    for strength in (0.0, 0.1, 0.3, 0.5, 0.7, 1.0):
        name = f"s{strength}"
        sample(run, project(), n=1, init=song, strength=strength, rave=tmp_path, name=name)
        ((key, found),) = latents(run, name).items()
        assert key == f"seed0-song-varied{strength:g}" and found.shape == raw.shape
        far.append(np.square(found - raw).mean())
    assert far[0] == pytest.approx(0, abs=1e-8)
    assert far == sorted(far) and far[2] > 0


def _sound(path, codec):
    from latentdiff import audio

    return audio.read(path, codec.sample_rate, codec.channels)[0]


def test_seconds_cut_it_and_seeds_vary_it(run, make, codec, song, tmp_path):
    make()
    sample(run, project(), n=2, seconds=0.5, init=song, strength=0.5, rave=tmp_path, name="x")
    one, two = latents(run, "x").values()
    assert one.shape == (8, 63) and not np.allclose(one, two)


def test_a_model_that_follows_recordings_follows_it(make, codec, song):
    model = Model.load(make("mel", gain=0.3))
    varied = Variation.of(model, codec, song, 0.5, None)
    (follows,) = varied.following([ConditionMaker(model).given([], None)[0][0]])
    assert follows.features["mel"].shape[-1] == varied.frames and follows.recording == song


def test_what_is_asked_for_wins(make, codec, song, tmp_path, write_wav, melody):
    model = Model.load(make("mel", gain=0.3))
    other = write_wav(tmp_path / "other.wav", melody(3.0, seed=4))
    varied = Variation.of(model, codec, song, 0.5, None)
    asked, _ = ConditionMaker(model).given([other], None)
    (follows,) = varied.following(asked)
    assert follows.name == "song-other"
    expected = asked[0].features["mel"][:, : varied.frames]
    np.testing.assert_array_equal(follows.features["mel"], expected)
    with pytest.raises(UserError, match="shorter than the recording to vary"):
        varied.following(ConditionMaker(model).given([other], 1.0)[0])


@pytest.mark.parametrize(
    ("strength", "options", "complaint"),
    [
        (1.5, {}, "a strength of 1.5 is impossible"),
        (0.5, {"diffusion": {"parametrisation": "regression"}}, "cannot vary recordings"),
    ],
)
def test_impossible_variations_are_refused(make, codec, song, strength, options, complaint):
    model = Model.load(make("mel", **options))
    with pytest.raises(UserError, match=complaint):
        Variation.of(model, codec, song, strength, None)


def test_without_its_codec_a_recording_cannot_be_varied(run, make, song):
    make()
    with pytest.raises(UserError, match="the codec of the model was not found"):
        sample(run, project(), init=song, name="x")


class TestDecode:
    """`sample --decode`: the sound beside the latents."""

    def sample(self, run, *words):
        given = ["sample", "--run", run.root, "--seconds", 1, "--n", 2, *words]
        settings = ["network.name=tiny", "network.channels=8", "device=cpu", "sampling.steps=2"]
        done = CliRunner().invoke(cli, [*map(str, given), *settings], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def test_writes_sound_under_the_same_name(self, run, make, codec, tmp_path):
        make()
        self.sample(run, "--name", "x", "--decode", "--format", "flac", "--rave", tmp_path)
        assert len(latents(run, "x")) == 2
        sounds = sorted((run.audio / "x").glob("*.flac"))
        assert [path.stem for path in sounds] == ["seed0-free", "seed1-free"]
        assert soundfile.info(sounds[0]).frames == 8000
        # The same words again do nothing.
        assert "already done" in self.sample(
            run, "--name", "x", "--decode", "--format", "flac", "--rave", tmp_path
        )

    def test_without_a_name_both_have_the_time(self, run, make, codec, tmp_path):
        make()
        self.sample(run, "--decode", "--rave", tmp_path)
        (samples,), (sounds,) = run.samples.iterdir(), run.audio.iterdir()
        assert samples.name == sounds.name

    def test_a_dry_run_decodes_nothing(self, run, make, codec, tmp_path):
        make()
        self.sample(run, "--decode", "--dry-run", "--rave", tmp_path)
        assert not run.audio.exists() and not run.samples.exists()
