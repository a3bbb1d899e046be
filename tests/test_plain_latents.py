"""Folders of latents and spectrograms that another program wrote."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from latentdiff import config
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.conditions.align import align
from latentdiff.conditions.mel import Mel
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.data import features_of, windows_of
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.training import checkpoint

MEL = Mel.of(ConditionConfig())
# 44100 / 2048 latent frames and 22050 / 256 mel frames a second.
RATE, RATIO = 44100 / 2048, 4


def smooth(frames, dims=16, seed=0, draws=0.0):
    """[D, T] that changes slowly along time, with the noise of draws from a posterior."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((dims, frames + 8))
    slow = sum(steps[:, i : i + frames] for i in range(8)) / 8**0.5
    return (slow + draws * rng.standard_normal(slow.shape)).astype(np.float32)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def mel(frames, seed=0, bands=80):
    return np.random.default_rng(seed).random((bands, frames), np.float32)


@pytest.mark.parametrize("lengths", [(108, 108, 108), (108, 50, 77)])
@pytest.mark.parametrize(("dims", "draws"), [(128, 0.0), (128, 2.0), (3, 0.0)])
def test_frames_by_dimensions_are_recognised(tmp_path, caplog, lengths, dims, draws):
    for i, frames in enumerate(lengths):
        save(tmp_path / f"{i}.npy", smooth(frames, dims=dims, seed=i, draws=draws).T)
    store = LatentStore.open(tmp_path)
    assert store.latent_dim == dims and [e.frames for e in store.entries] == list(lengths)
    expected = smooth(lengths[1], dims=dims, seed=1, draws=draws)
    np.testing.assert_array_equal(store.mean(store.entries[1]), expected)
    assert "taken as [frames, dimensions]" in caplog.text


@pytest.mark.parametrize("draws", [0.0, 2.0])
def test_short_clips_of_a_large_codec_are_not_taken_for_transposed_ones(tmp_path, caplog, draws):
    for i in range(3):
        save(tmp_path / f"{i}.npy", smooth(108, dims=128, seed=i, draws=draws)[None])
    store = LatentStore.open(tmp_path)
    assert (store.latent_dim, store.transposed) == (128, False)
    assert not caplog.text


def test_arrays_in_a_folder_called_mean_are_as_they_are(tmp_path, caplog):
    for i in range(3):
        save(tmp_path / "mean" / "sub" / f"{i}.npy", smooth(20, dims=20, seed=i).T)
    store = LatentStore.open(tmp_path)
    assert not store.transposed and not caplog.text
    assert (store.entries[0].key, store.entries[0].label) == ("sub/0", "sub")


def test_latents_of_mixed_dimensions_are_refused(tmp_path):
    save(tmp_path / "a.npy", smooth(50, dims=16))
    save(tmp_path / "b.npy", smooth(60, dims=8))
    with pytest.raises(UserError, match="different codecs"):
        LatentStore.open(tmp_path)
    # Of equal length they could be [frames, dimensions], but time runs along the second axis.
    save(tmp_path / "b.npy", smooth(50, dims=8))
    with pytest.raises(UserError, match=r"b\.npy has 8 dimensions"):
        LatentStore.open(tmp_path)


@pytest.mark.parametrize(
    ("latents", "spectrogram"),
    [
        ("x.npy", "x.spec.npy"),
        ("x.npy", "x.wav.spec.npy"),
        ("x.wav.npy", "x.wav.spec.npy"),
        ("x.npy", "x.npy.spec.npy"),
        ("x 1.5 s.npy", "x 1.5 s.spec.npy"),
        ("sub/x.npy", "sub/x.spec.npy"),
        ("mean/sub/x.npy", "mel/sub/x.npy"),
    ],
)
def test_spectrograms_belong_to_latents_by_name(tmp_path, caplog, latents, spectrogram):
    save(tmp_path / latents, smooth(30))
    save(tmp_path / spectrogram, mel(120))
    store = LatentStore.open(tmp_path)
    (entry,) = store.entries
    assert (entry.mean, entry.mel) == (latents, spectrogram)
    np.testing.assert_array_equal(store.features(entry, "mel"), mel(120))
    assert not caplog.text


def test_what_has_no_partner_is_said(tmp_path, caplog):
    save(tmp_path / "x.npy", smooth(30))
    save(tmp_path / "y.spec.npy", mel(120))
    assert LatentStore.open(tmp_path).entries[0].mel is None
    assert "1 spectrograms belong to no latents: y.spec.npy" in caplog.text
    (tmp_path / "x.npy").unlink()
    with pytest.raises(UserError, match="no latents") as caught:
        LatentStore.open(tmp_path)
    assert "spectrograms" in caught.value.why


def test_two_spectrograms_of_one_name_are_refused(tmp_path):
    save(tmp_path / "x.npy", smooth(30))
    save(tmp_path / "x.wav.spec.npy", mel(120))
    save(tmp_path / "x.mp3.spec.npy", mel(120))
    with pytest.raises(UserError, match="would belong to the same latents"):
        LatentStore.open(tmp_path)


def test_deviations_beside_means_are_read(tmp_path):
    save(tmp_path / "mean" / "x.npy", smooth(30))
    save(tmp_path / "std" / "x.npy", np.ones((16, 30), np.float32))
    store = LatentStore.open(tmp_path)
    assert store.std(store.entries[0]).shape == (16, 30)


def test_a_run_directory_stands_for_its_latents(tmp_path, make_store):
    root = make_store(tmp_path / "run" / "latents")
    save(tmp_path / "run" / "samples" / "x.npy", smooth(30, dims=3))
    assert LatentStore.open(tmp_path / "run").root == root


@pytest.mark.parametrize("frames", [400, 401, 397, 394])
def test_spectrograms_become_one_column_a_latent_frame(frames):
    ramp = np.tile(np.arange(frames, dtype=np.float32) / 500, (80, 1))
    for array in (ramp, ramp.T):
        aligned = align(array, MEL, 100, RATE, "x")
        assert aligned.shape == (80, 100)
        # Latent frame j holds mel frames 4 j to 4 j + 4.
        np.testing.assert_allclose(aligned[0, :98], (RATIO * np.arange(98) + 2) / 500, atol=1e-5)
    assert align(mel(100), MEL, 100, RATE, "x").shape == (80, 100)


@pytest.mark.parametrize(
    ("array", "frames", "what", "remedy"),
    [
        (mel(800), 100, "800 frames for 100 of the latents", "condition.mel.hop"),
        (mel(800), 100, "that is 8 to each", "latents.hop"),
        (mel(400, bands=64), 100, r"\[64, 400\], not \[80, frames\]", "condition.mel.bands=64"),
        (100 * mel(400), 100, "holds values from", "DiffWave"),
        (np.full((80, 400), np.nan, np.float32), 100, "from nan to nan", "DiffWave"),
    ],
)
def test_spectrograms_that_do_not_fit_are_refused(array, frames, what, remedy):
    with pytest.raises(UserError) as caught:
        align(array, MEL, frames, RATE, "x.spec.npy")
    assert "x.spec.npy" in caught.value.what and remedy in caught.value.do_this
    assert re.search(what, str(caught.value))


def project(**sections):
    small = {
        "network": {"name": "tiny", "channels": 16, "kernel": 3},
        "training": {"steps": 10, "batch": 8, "window": 32},
        "condition": {"kinds": "mel"},
        "device": "cpu",
    }
    return config.build(Project, config.merge(small, sections))


def diffwave_folder(root, hop=256):
    """Clips with spectrograms of the same first latent dimension, as DiffWave names them."""
    for i in range(6):
        z = smooth(60, seed=i)
        # DiffWave's 22050 / 256 frames a second are four to each of 44100 / 2048.
        rows = np.repeat(np.clip(z[:1] / 8 + 0.5, 0, 1), 1024 // hop, axis=1)
        save(root / f"{i}.npy", z)
        save(root / f"{i}.spec.npy", np.tile(rows, (80, 1)))


def test_a_model_is_trained_on_spectrograms_of_diffwave(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    diffwave_folder(tmp_path / "clips")
    run = Run(tmp_path / "run")
    train_diffusion(run, project(latents={"hop": 2048}), latents=tmp_path / "clips")
    model = Model.load(checkpoint.best(run.diffusion))
    assert model.condition.kinds == ("mel",) and model.codec.hop == 2048
    store = LatentStore.open(tmp_path / "clips")
    features = features_of(model, store, store.entries[0])["mel"]
    expected = np.clip(smooth(60)[0] / 8 + 0.5, 0, 1)
    # The spectrogram follows the first dimension, at the same time.
    assert np.corrcoef(features[0], expected)[0, 1] > 0.98
    windows = windows_of(model, store, "train")
    assert windows.spread(4).condition.values["mel"].shape[1:] == (80, 32)


def test_spectrograms_of_another_hop_are_refused_before_the_first_step(tmp_path):
    diffwave_folder(tmp_path / "clips", hop=128)
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match="480 frames for 60 of the latents"):
        train_diffusion(run, project(), latents=tmp_path / "clips")
    assert not run.diffusion.exists()


def test_latents_without_spectrograms_say_how_to_bring_some(tmp_path):
    for i in range(3):
        save(tmp_path / "clips" / f"{i}.npy", smooth(60, seed=i))
    with pytest.raises(UserError, match="cannot follow the mel") as caught:
        train_diffusion(Run(tmp_path / "run"), project(), latents=tmp_path / "clips")
    assert "NAME.spec.npy beside each NAME.npy" in caught.value.do_this
