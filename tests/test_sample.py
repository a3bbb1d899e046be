"""`sample`: from a checkpoint alone, seed by seed, with and without a condition."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from latentdiff import config, runs
from latentdiff.commands.sample import sample
from latentdiff.errors import UserError
from latentdiff.latents.store import CodecFacts, LatentStore
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.runs import Input, Run
from latentdiff.training import checkpoint

CODEC = CodecFacts("c" * 64, sample_rate=8000, hop=64, latent_dim=6, channels=1)
MEL = {"sample_rate": 8000, "n_fft": 256, "hop": 100, "bands": 5}


def project(seed=3, **sections):
    small = {"network": {"name": "tiny", "channels": 8}, "sampling": {"steps": 4}, "device": "cpu"}
    return config.build(Project, config.merge(small, sections, {"seed": seed}))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "techno")


@pytest.fixture
def make_best(run, make_model):
    """Writes the run's best checkpoint, with random weights."""

    def make(kind="none", dropout=0.1, **options):
        condition = {"kinds": kind, "dropout": dropout, "mel": MEL}
        return make_model(checkpoint.best(run.diffusion), condition=condition, **options)

    return make


def drawn(run, name):
    return {path.stem: np.load(path) for path in sorted((run.samples / name).glob("*.npy"))}


def test_what_is_written(run, make_best):
    make_best()
    assert sample(run, project(), n=3, seconds=0.5, name="first") == []
    arrays = drawn(run, "first")
    assert list(arrays) == ["seed3-free", "seed4-free", "seed5-free"]
    # 0.5 s at 8 kHz are 62.5 frames of 64 samples.
    assert all(z.shape == (6, 63) and z.dtype == np.float32 for z in arrays.values())
    info = runs.require_done(run.samples / "first", "samples", "sample")
    assert info.inputs["codec"] == Input("/some/codec.ckpt", "c" * 64)
    assert info.inputs["diffusion"].path.endswith("best.safetensors")
    assert info.result["codec"] == "c" * 64 and info.result["hop"] == 64
    assert info.result["step"] == 7


def test_samples_are_a_store_of_their_codec(run, make_best):
    make_best()
    sample(run, project(), n=2, seconds=0.5, name="first")
    store = LatentStore.open(run.samples / "first")
    assert store.codec == CODEC
    assert [entry.key for entry in store.entries] == ["seed3-free", "seed4-free"]
    assert store.entries[0].samples == 63 * 64


def test_the_same_seed_gives_the_same_latents_whatever_n_and_batch(run, make_best):
    make_best()
    sample(run, project(seed=3), n=5, seconds=1, name="a")
    sample(run, project(seed=5, sampling={"batch": 2}), n=2, seconds=1, name="b")
    a, b = drawn(run, "a"), drawn(run, "b")
    assert set(b) == {"seed5-free", "seed6-free"}
    for name, z in b.items():
        np.testing.assert_allclose(z, a[name], atol=1e-4)
    assert np.abs(a["seed3-free"] - a["seed4-free"]).max() > 0.1


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_directions_left_out(run, make_best, fill):
    make_best()
    sample(run, project(sampling={"fill": fill}), n=2, seconds=20, name="first")
    model = Model.load(checkpoint.best(run.diffusion))
    z = torch.from_numpy(np.stack(list(drawn(run, "first").values())))
    rest = z - model.whitening.unwhiten(model.whitening.whiten(z))
    # 4 of 6 dimensions are left out.
    expected = 0.0 if fill == "mean" else 4 / 6
    assert rest.square().mean().item() == pytest.approx(expected, abs=0.05)
    assert not torch.equal(rest[0], rest[1]) or fill == "mean"


def test_the_model_needs_only_its_file(run, make_best, tmp_path):
    path = make_best().rename(tmp_path / "shared.safetensors")
    sample(run, project(), diffusion=path, n=1, seconds=0.5, name="first")
    assert len(drawn(run, "first")) == 1 and not list(run.diffusion.rglob("*.safetensors"))


class TestConditions:
    def test_length_and_name_follow_the_song(self, run, make_best, tmp_path, write_wav, melody):
        make_best("mel")
        song = write_wav(tmp_path / "My Söng.wav", melody(1.7))
        other = write_wav(tmp_path / "other.wav", melody(0.9, seed=1))
        sample(run, project(), n=2, condition=[song, other], name="first")
        shapes = {name: z.shape[1] for name, z in drawn(run, "first").items()}
        assert shapes == {
            "seed3-My-Söng": pytest.approx(1.7 * 125, abs=2),
            "seed4-My-Söng": pytest.approx(1.7 * 125, abs=2),
            "seed3-other": pytest.approx(0.9 * 125, abs=2),
            "seed4-other": pytest.approx(0.9 * 125, abs=2),
        }

    def test_seconds_overrule_the_songs_length(self, run, make_best, tmp_path, write_wav, melody):
        make_best("mel")
        song = write_wav(tmp_path / "song.wav", melody(1.7))
        sample(run, project(), n=1, seconds=3, condition=[song], name="first")
        assert drawn(run, "first")["seed3-song"].shape == (6, 375)

    def test_another_song_gives_other_latents(self, run, make_best, tmp_path, write_wav, melody):
        make_best("mel", gain=0.3)
        songs = [write_wav(tmp_path / f"{k}.wav", melody(1, seed=k)) for k in (1, 2)]
        sample(run, project(), n=1, condition=songs, name="first")
        a, b = drawn(run, "first").values()
        assert np.abs(a - b).max() > 0.01

    def test_without_one_the_model_runs_free(self, run, make_best):
        make_best("mel")
        sample(run, project(), n=1, seconds=0.5, name="first")
        assert list(drawn(run, "first")) == ["seed3-free"]

    def test_without_one_a_model_that_never_ran_free_refuses(self, run, make_best):
        make_best("mel", dropout=0)
        with pytest.raises(UserError, match="needs a condition"):
            sample(run, project(), n=1, name="first")

    def test_a_free_model_refuses_one(self, run, make_best, tmp_path):
        make_best()
        with pytest.raises(UserError, match="follows no recording and no label"):
            sample(run, project(), condition=[tmp_path / "song.wav"], name="first")

    def test_a_song_that_cannot_be_read_is_a_loss(self, run, make_best, tmp_path, write_wav):
        make_best("mel")
        good = write_wav(tmp_path / "good.wav", np.full(8000, 0.1))
        bad = tmp_path / "bad.wav"
        bad.write_text("no sound")
        losses = sample(run, project(), n=1, condition=[good, bad], name="first")
        assert len(losses) == 1 and str(bad) in losses[0]
        assert list(drawn(run, "first")) == ["seed3-good"]
        with pytest.raises(UserError, match="no condition could be read"):
            sample(run, project(), n=1, condition=[bad], name="second")

    def test_labels_are_given_by_name(self, run, make_best, tmp_path):
        make_best("label", labels=["drum", "voice"], gain=0.5)
        sample(run, project(), n=1, seconds=1, condition=["voice", "drum"], name="first")
        arrays = drawn(run, "first")
        assert set(arrays) == {"seed3-voice", "seed3-drum"}
        assert np.abs(arrays["seed3-voice"] - arrays["seed3-drum"]).max() > 0.01
        # One slug is not one label: each keeps a file of its own.
        alike = ["drum & bass", "drum bass", "Drum Bass", "日本", "中国"]
        make_best("label", labels=sorted(alike), gain=0.5)
        given = [Path(label) for label in alike]
        sample(run, project(), n=1, seconds=1, condition=given, name="alike")
        arrays = drawn(run, "alike")
        assert len({name.casefold() for name in arrays}) == 5
        assert {"seed3-日本", "seed3-中国"} <= set(arrays)
        make_best("label", labels=["drum", "voice"], gain=0.5)
        with pytest.raises(UserError, match="did you mean 'drum'"):
            sample(run, project(), condition=["drums"], name="second")

    def test_a_song_and_a_label_are_followed_together(
        self, run, make_best, tmp_path, write_wav, melody
    ):
        make_best("both", dropout=0, labels=["drum", "voice"], gain=0.3)
        songs = [write_wav(tmp_path / f"{k}.wav", melody(1, seed=k)) for k in (1, 2)]
        sample(run, project(), n=1, condition=["voice", *songs, "drum"], name="first")
        arrays = drawn(run, "first")
        names = {f"seed3-{song}-{label}" for song in (1, 2) for label in ("drum", "voice")}
        assert set(arrays) == names
        first = arrays["seed3-1-drum"]
        for other in ("seed3-1-voice", "seed3-2-drum"):
            assert np.abs(arrays[other] - first).max() > 0.01
        for given, missing in (["drum"], "recording"), (songs, "label"):
            with pytest.raises(UserError, match=f"no {missing} was given"):
                sample(run, project(), condition=given, name="second")
        with pytest.raises(UserError, match=r"song\.wav and --condition with one of: drum, voice"):
            sample(run, project(), name="third")
        with pytest.raises(UserError, match="did you mean 'drum'"):
            sample(run, project(), condition=["drums", *songs], name="fourth")

    def test_a_regression_is_one_call(self, run, make_best, tmp_path, write_wav, melody, caplog):
        song = write_wav(tmp_path / "song.wav", melody(1))
        make_best("mel", diffusion={"parametrisation": "regression"}, gain=0.3)
        sample(run, project(), n=2, condition=[song], name="first")
        one, two = drawn(run, "first").values()
        # Nothing is random about it.
        np.testing.assert_allclose(one, two, atol=1e-5)
        facts = runs.require_done(run.samples / "first", "samples", "sample").result
        assert facts["network_calls"] == 1
        with pytest.raises(UserError, match="regression needs a condition"):
            make_best(diffusion={"parametrisation": "regression"})

    def test_spread_is_logged_relative_to_that_of_the_training(self, run, make_best):
        spreads = []
        for variance in (None, torch.tensor([4.0, 0.25])):
            make_best(variance=variance, gain=0.0)
            sample(run, project(sampling={"steps": 64}), n=8, name="first", overwrite=True)
            result = runs.require_done(run.samples / "first", "samples", "sample").result
            spreads.append(result["spread"])
        # Untrained, each direction is what its variance alone makes likely: training's own spread.
        np.testing.assert_allclose(spreads[1], [1, 1], atol=0.25)
        np.testing.assert_allclose(spreads[0], [1, 1], atol=0.25)


class TestRefusals:
    def test_no_model(self, run):
        with pytest.raises(UserError, match="no diffusion checkpoint"):
            sample(run, project(), name="first")

    def test_a_truncated_model(self, run, make_best):
        path = make_best()
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UserError, match=r"best\.safetensors is damaged"):
            sample(run, project(), name="first")

    def test_a_name_with_folders(self, run, make_best):
        make_best()
        with pytest.raises(UserError, match="cannot be the name"):
            sample(run, project(), name="../first")

    def test_the_same_command_again_and_another(self, run, make_best, caplog):
        make_best()
        sample(run, project(), n=1, seconds=0.5, name="first")
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            sample(run, project(), n=1, seconds=0.5, name="first")
        assert "already done" in caplog.text
        with pytest.raises(UserError, match="n: 1 -> 2"):
            sample(run, project(), n=2, seconds=0.5, name="first")
        sample(run, project(), n=2, seconds=0.5, name="first", overwrite=True)
        assert len(drawn(run, "first")) == 2

    def test_dry_run_writes_nothing(self, run, make_best):
        make_best()
        sample(run, project(), name="first", dry_run=True)
        assert not run.samples.exists()

    def test_samples_that_explode_raise(self, run, make_best, caplog):
        make_best(gain=3.0)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            sample(run, project(), n=1, seconds=1, name="first")
        assert "far stronger than the training latents" in caplog.text
        assert "network calls per sample" in caplog.text


def test_a_regression_is_not_advised_more_steps(run, make_best, caplog):
    regression = {"parametrisation": "regression"}
    make_best("mel", dropout=0.1, diffusion=regression, gain=3.0)
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        # The settings are those of another model: what counts is the one that is sampled.
        sample(run, project(), n=1, seconds=1, name="first")
    assert "one call of a regression" in caplog.text and " steps" not in caplog.text
    assert "Try: longer training" in caplog.text
