"""Training, continuing and computing on a card, as on the CPU; scripts/gpu_check.sh runs these."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentdiff import config
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.rave.checkpoint import read_checkpoint
from latentdiff.rave.codec import RaveCodec
from latentdiff.rave.database import DatabaseWriter
from latentdiff.rave.settings import RaveConfig
from latentdiff.rave.train import RaveTraining
from latentdiff.runs import Run
from latentdiff.tracking import read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no card"),
]


@pytest.fixture(autouse=True)
def without_tf32(monkeypatch):
    """TF32 has three digits: without it, a card computes as exactly as a CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def distance(found, expected):
    """Of a tensor from the expected one, relative to that."""
    assert found.shape == expected.shape
    return float((found.cpu() - expected).norm() / expected.norm())


# --- diffusion


def training(run, precision, steps):
    sections = {
        "network": {"name": "diffwave", "channels": 32, "blocks": 4},
        "training": {
            "steps": steps,
            "batch": 16,
            "window": 32,
            "learning_rate": 3e-3,
            # Constant, for it would fall towards the end of either budget.
            "decay": 0,
            "warmup_steps": 5,
            "validate_every": 10,
            "log_every": 10,
            "demo_samples": 0,
            "calibration_samples": 0,
            "precision": precision,
        },
        "condition": {"kinds": "none"},
        "device": "cuda",
    }
    train_diffusion(run, config.build(Project, sections))
    return [row["loss"] for row in read_metrics(run.diffusion) if "loss" in row]


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
def test_a_training_continues_as_if_it_had_not_stopped(tmp_path, make_store, precision):
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    for run in (whole, parts):
        make_store(run.latents)
    losses = training(whole, precision, 40)
    training(parts, precision, 20)
    # A card's kernels may sum in another order each time.
    assert training(parts, precision, 40) == pytest.approx(losses, rel=0.02)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("network", ["diffwave", "unet1d", "transformer"])
def test_samples_are_those_of_the_cpu(tmp_path, make_model, network):
    path = make_model(tmp_path / "model.safetensors", network={"name": network, "channels": 32})
    settings = config.build(SamplingConfig, {"steps": 4})
    expected, found = (
        Model.load(path, device).sample(settings, [1, 2], 50).latents for device in ("cpu", "cuda")
    )
    assert distance(found, expected) < 1e-3


# --- RAVE


@pytest.mark.real
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_rave_trains_in_both_phases_and_continues(tmp_path, precision):
    rng = np.random.default_rng(0)
    with DatabaseWriter(tmp_path / "database", 16000, 1) as writer:
        for _ in range(12):
            writer.append(rng.integers(-9999, 9999, (1, 32768)).astype(np.int16))
    tiny = {"capacity": 4, "ratios": [4, 4, 2], "n_band": 8, "latent_size": 16, "n_signal": 16384}
    tiny |= {"batch": 2, "phase_1_steps": 4, "beta_warmup_steps": 1, "validation_chunks": 2}
    for steps in (6, 12):
        settings = RaveConfig(**tiny, steps=steps, precision=precision)
        with RaveTraining(settings, tmp_path / "database", tmp_path, device="cuda") as rave:
            result = rave.fit()
    assert (result.step, result.phase) == (12, 2)
    rows = [row for row in read_metrics(tmp_path) if "train/beta_factor" in row]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert np.isfinite([value for row in rows for value in row.values()]).all()
    weights = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(bool(value.isfinite().all()) for value in weights.values())


@pytest.mark.real
@pytest.mark.parametrize(("name", "ratios"), [("v1", (4, 4, 4)), ("v2", (4, 2, 2))])
def test_a_codec_encodes_and_decodes_as_on_the_cpu(tmp_path, make_rave_run, name, ratios):
    run = make_rave_run(tmp_path / "rave", configs=[name], ratios=ratios)
    here, there = (RaveCodec.from_run(run, device=device) for device in ("cpu", "cuda"))
    assert here.fingerprint == there.fingerprint
    audio = 0.3 * torch.randn(2, 1, 20_000, generator=torch.Generator().manual_seed(0))
    mean, std = here.encode(audio)
    for found, expected in zip(there.encode(audio), (mean, std), strict=True):
        assert distance(found, expected) < 1e-3
    assert distance(there.decode(mean), here.decode(mean)) < 1e-3
