"""Starter codecs: stored in half precision, found by shape and sample rate, used by default."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from latentdiff import config
from latentdiff.commands import presets
from latentdiff.commands.train_rave import train_rave
from latentdiff.errors import UserError
from latentdiff.model.project import Project, resolve
from latentdiff.rave import compat, starter
from latentdiff.rave.checkpoint import read_checkpoint, read_result
from latentdiff.rave.database import DatabaseWriter
from latentdiff.rave.gin_config import assemble
from latentdiff.rave.load import load_rave
from latentdiff.rave.settings import RaveConfig
from latentdiff.rave.starter import StarterFacts, find_starter, load_starter, write_starter
from latentdiff.runs import Run

RATE, SIGNAL = 8000, 16384
TINY = {
    "configs": ["v1"],
    "capacity": 4,
    "ratios": [4, 4, 2],
    "n_band": 4,
    "latent_size": 6,
    "n_signal": SIGNAL,
    "batch": 2,
    "steps": 1,
    "workers": 0,
    "validation_chunks": 2,
    "overrides": ["blocks.Generator.use_noise=False", "core.MultiScaleSTFT.scales=[512]"],
}
FACTS = StarterFacts("tiny", RATE, steps=7, hours=1.5, seed=0, distance=1.0)


@pytest.fixture
def starters(tmp_path, monkeypatch):
    folder = tmp_path / "starters"
    monkeypatch.setattr(starter, "STARTERS", folder)
    return folder


@pytest.fixture(scope="module")
def model(rave_run):
    return load_rave(rave_run)[0]


def test_weights_come_back_in_half_precision(model, starters):
    write_starter(model, starters / "tiny.safetensors", FACTS)
    found = find_starter(model, RATE)
    assert found is not None and found.facts == FACTS
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_starter(model, found)
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        torch.testing.assert_close(value, before[name], rtol=1e-3, atol=1e-6)
    bytes_of_codec = 2 * sum(value.numel() for value in before.values())
    assert found.path.stat().st_size < 1.5 * bytes_of_codec


def test_only_a_starter_of_this_rate_and_shape_is_found(model, starters):
    assert find_starter(model, RATE) is None
    write_starter(model, starters / "tiny.safetensors", FACTS)
    assert find_starter(model, 2 * RATE) is None
    other = torch.nn.Module()
    other.encoder = torch.nn.Conv1d(1, 1, 3)
    assert find_starter(other, RATE) is None


@pytest.fixture
def database(tmp_path):
    rng = np.random.default_rng(0)
    with DatabaseWriter(tmp_path / "dataset", RATE, 1) as writer:
        for _ in range(4):
            writer.append(rng.integers(-9000, 9000, (1, 2 * SIGNAL)).astype(np.int16))
    return tmp_path / "dataset"


@pytest.mark.real
def test_training_says_where_it_starts_and_can_start_from_nothing(
    tmp_path, starters, caplog, database
):
    with compat.isolated_gin():
        torch.manual_seed(9)
        made = assemble(RaveConfig(**TINY), RATE, 1)
    write_starter(made.model, starters / "tiny.safetensors", FACTS)
    caplog.set_level(logging.INFO)
    run = Run(tmp_path / "run")

    def train(**settings):
        caplog.clear()
        project = config.build(
            Project, {"data": {"sample_rate": RATE}, "rave": {**TINY, **settings}, "device": "cpu"}
        )
        train_rave(run, project, dataset=database, dry_run="start" in settings)
        return caplog.text

    assert "starter" not in train(start="none")
    assert "starter codec 'tiny': 7 steps on 1.5 hours of synthetic sound" in train(start="auto")
    with pytest.raises(UserError, match="no checkpoint at nowhere"):
        train(start="nowhere")
    assert "starter codec" in train()
    last = run.rave / "checkpoints" / "last.ckpt"
    assert read_result(last).pretrained
    # One step of Adam moves no weight by more than its learning rate.
    ours, theirs = read_checkpoint(last)["state_dict"], made.model.state_dict()
    name = "decoder.net.0.weight_v"
    assert (ours[name] - theirs[name]).abs().max() < 2e-3
    assert "starter" not in train(steps=2)


@pytest.mark.parametrize("preset", ["quickstart"])
def test_the_shipped_starter_fits_its_preset(preset):
    project = resolve(None, presets.preset_path(preset), [], {})
    with compat.isolated_gin():
        made = assemble(project.rave, project.data.sample_rate, project.data.channels)
    # Its own quickstart does not use it; see the preset.
    found = find_starter(made.model, project.data.sample_rate)
    assert found is not None and found.facts.preset == preset
    assert found.path.stat().st_size < 3_000_000
    load_starter(made.model, found)
    assert all(torch.isfinite(value).all() for value in made.model.state_dict().values())
