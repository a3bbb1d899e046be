"""`inspect` describes what is at a path, or reports that there is nothing."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentdiff import runs
from latentdiff.commands.inspect import inspect
from latentdiff.errors import UserError
from latentdiff.latents.statistics import LatentStatistics, fit
from latentdiff.latents.store import STATISTICS, CodecFacts
from latentdiff.latents.whitening import Whitening
from latentdiff.runs import Input, Run, Stage
from latentdiff.training import checkpoint


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def make_run(root):
    run = Run(root)
    with Stage(run.dataset, "preprocess", inputs={"audio": Input("recordings", "abc")}) as stage:
        stage.record(seconds_in=12.5)
    settings = {"latents": {"keep": "auto"}}
    with Stage(run.latents, "encode", config=settings):
        mean = np.random.default_rng(0).standard_normal((6, 400)) * np.array([[9, 5, 0, 0, 0, 0]]).T
        fit([(mean, np.ones_like(mean))]).save(run.latents / STATISTICS)
    return run


def test_a_run_is_X_by_stage(tmp_path, logged):
    inspect(make_run(tmp_path / "run").root)
    for line in ("preprocess: done", "from audio: recordings (abc)", "seconds_in: 12.5", "encode:"):
        assert line in logged.text
    assert "6 dimensions, 2 carry sound" in logged.text


def test_a_failed_stage_shows_the_reason(tmp_path, logged):
    with pytest.raises(ValueError), Stage(tmp_path / "s", "train-rave"):
        raise ValueError("no luck")
    inspect(tmp_path / "s")
    assert "train-rave: failed (no luck)" in logged.text


def test_arrays_and_weights(tmp_path, logged):
    np.save(tmp_path / "z.npy", np.array([[1.0, np.nan]], np.float32))
    save_file({"w": torch.zeros(3, 4)}, tmp_path / "w.safetensors", {"step": "7"})
    inspect(tmp_path / "z.npy")
    inspect(tmp_path / "w.safetensors")
    assert "[1, 2]" in logged.text and "holds NaN or Inf" in logged.text
    assert "1 tensors, 12 numbers" in logged.text and "step: 7" in logged.text


def test_a_model_shows_its_network(tmp_path, logged, make_model):
    run = make_run(tmp_path / "run")
    whitening = Whitening.from_statistics(LatentStatistics.load(run.latents / STATISTICS), 2)
    codec = CodecFacts("c", sample_rate=8000, hop=400, latent_dim=6, channels=1)
    with Stage(run.diffusion, "train-diffusion"):
        make_model(
            checkpoint.last(run.diffusion),
            network={"name": "tiny", "kernel": 5},
            codec=codec,
            whitening=whitening,
        )
    inspect(run.diffusion)
    line = "network: tiny: 30 k parameters, 43 kFLOP a frame (in 32 frames), sees 9 frames (0.5 s)"
    assert line in logged.text
    logged.clear()
    inspect(checkpoint.last(run.diffusion))
    assert line in logged.text


@pytest.mark.parametrize("name", ["z.npy", "w.safetensors", "x.wav"])
def test_damaged_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not that")
    with pytest.raises(UserError, match=name):
        inspect(tmp_path / name)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=runs.RUN_FILE):
        inspect(tmp_path)


@pytest.mark.real
def test_a_run_of_rave(rave_run, logged, tmp_path, make_rave_run):
    inspect(rave_run)
    for line in ("a run of RAVE", "step 7, phase 1 (rave train)", "8000 Hz, 1 channel, 6 latents"):
        assert line in logged.text
    assert f"latentdiff encode --run RUN --rave {rave_run}" in logged.text
    # The folder above two of them.
    logged.clear()
    make_rave_run(tmp_path / "b", steps=(3, 9), names=("best.ckpt", "epoch.ckpt"))
    make_rave_run(tmp_path / "a", seed=1)
    (tmp_path / "a" / "version_0" / "checkpoints" / "epoch.ckpt").write_bytes(b"cut")
    inspect(tmp_path)
    assert logged.text.count("a run of RAVE") == 2
    assert "not usable" in logged.text and "best.ckpt, step 3" in logged.text


@pytest.mark.real
def test_a_checkpoint_of_rave(rave_run, logged, tmp_path):
    (path,) = rave_run.rglob("*.ckpt")
    inspect(path)
    assert "step 7, phase 1 (rave train)" in logged.text and "6 latents" in logged.text
    logged.clear()
    shutil.copy(path, tmp_path / "alone.ckpt")
    inspect(tmp_path / "alone.ckpt")
    assert "no config.gin beside it" in logged.text
    with pytest.raises(UserError, match=r"has weights but no config\.gin"):
        inspect(tmp_path)
    torch.save({"state_dict": {"other": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of RAVE"):
        inspect(tmp_path / "other.ckpt")


def test_a_folder_of_latents(tmp_path, logged):
    rng = np.random.default_rng(0)
    for i in range(3):
        path = tmp_path / "songs" / f"{i}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.cumsum(rng.standard_normal((4, 50 + i)), axis=1).astype(np.float32))
    np.save(tmp_path / "songs" / "1.spec.npy", np.zeros((80, 204), np.float32))
    inspect(tmp_path)
    for line in (
        "latents of 3 files, 4 dimensions, [dimensions, frames]",
        "153 frames; the shortest file has 50, the longest 52",
        "1 of 3 have a mel spectrogram; the first is [80, 204], 4 columns",
        "which are labels: songs",
    ):
        assert line in logged.text
