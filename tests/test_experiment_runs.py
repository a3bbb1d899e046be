"""Experiments from training to samples: how a run, its checkpoint and its warnings report them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from latentdiff import config, runs
from latentdiff.commands.inspect import inspect
from latentdiff.commands.sample import sample
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.errors import UserError
from latentdiff.latents import statistics
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.data import prepare, windows_of
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT
from latentdiff.runs import Input, Run, Stage
from latentdiff.training import checkpoint

SMALL = {
    "network": {"name": "tiny", "channels": 16},
    "training": {
        "steps": 30,
        "batch": 16,
        "window": 16,
        "learning_rate": 3e-3,
        "demo_samples": 0,
        "calibration_samples": 0,
    },
    "sampling": {"steps": 4},
    "device": "cpu",
}
DIMENSIONS = 4


def project(**sections):
    return config.build(Project, config.merge(SMALL, sections))


@pytest.fixture
def run(tmp_path):
    """Six files of slow latents in four dimensions, each with a matching spectrogram."""
    run, rng = Run(tmp_path / "run"), np.random.default_rng(0)
    with Stage(run.latents, "encode", inputs={"codec": Input("codec", "c" * 64)}) as stage:
        accumulator, rows = statistics.StatisticsAccumulator(), []
        for i in range(6):
            frames = 100 + i
            z = np.cumsum(rng.standard_normal((DIMENSIONS, frames)), axis=1).astype(np.float32)
            std = np.full_like(z, 2.0)
            for name, array in (("mean", z), ("std", std), ("mel", z[:2])):
                np.save(run.latents / f"{name}{i}.npy", array)
            split = "validation" if i == 0 else "train"
            entry = Entry(f"{i}.wav", None, split, frames * 64, frames, f"mean{i}.npy")
            rows.append({**entry.row(), "std": f"std{i}.npy", "mel": f"mel{i}.npy"})
            if split == "train":
                accumulator.update(z, std)
        accumulator.finish().save(run.latents / "stats.safetensors")
        runs.write_jsonl(run.latents / "manifest.jsonl", rows)
        stage.record(sample_rate=8000, hop=64, latent_dim=DIMENSIONS, channels=1)
    return run


def test_a_normal_run_does_not_mention_experiments(run, caplog):
    train_diffusion(run, project())
    assert "unsound" not in caplog.text
    assert "experiment" not in runs.read_run(run.diffusion).config


def test_checkpoints_from_before_experiments_load(run):
    train_diffusion(run, project())
    path = checkpoint.best(run.diffusion)
    weights = checkpoint.load_weights(path)
    header = {key: value for key, value in weights.header.items() if key != "experiment"}
    checkpoint.save_weights(path, weights.tensors, header)
    assert Model.load(path).spec.experiment == NO_EXPERIMENT


def test_an_experiment_is_warned_of_remembered_and_rebuilt(run, caplog):
    wrong = {
        "data": {"posterior": "sampled", "scaling": "window"},
        "network": {"layout": "flat", "integer_steps": True},
        "training": {"levels": "batch", "t_range": [0.5, 1.0], "clip_noise": 1.0},
        "sampling": {"clamp": 1.0},
    }
    settings = project(experiment=wrong)
    with caplog.at_level(logging.WARNING):
        train_diffusion(run, settings)
    assert caplog.text.count("unsound on purpose") == 8
    assert runs.read_run(run.diffusion).config["experiment"]["data"]["scaling"] == "window"
    model = Model.load(checkpoint.best(run.diffusion))
    assert model.spec.experiment == settings.experiment
    caplog.clear()
    inspect(run.diffusion)
    assert caplog.text.count("unsound on purpose") == 8
    sample(run, settings, n=2, seconds=0.2, name="a")
    drawn = np.stack([np.load(p) for p in sorted((run.samples / "a").glob("*.npy"))])
    final = model.whitening.whiten(torch.from_numpy(drawn))
    assert final.abs().max() <= 1.0 + 1e-4
    sample(run, project(experiment={**wrong, "sampling": {}}), n=2, seconds=0.2, name="b")
    assert runs.read_run(run.samples / "b").config["experiment"]["sampling"]["clamp"] is None


def test_a_model_is_sampled_in_its_own_experiment_only(run):
    train_diffusion(run, project())
    with pytest.raises(UserError, match="was not trained with these"):
        sample(run, project(experiment={"network": {"bound": "tanh"}}), n=1, seconds=0.2)
    sample(run, project(experiment={"sampling": {"clamp": 1.0}}), n=1, seconds=0.2)


def test_another_experiment_is_another_run(run):
    train_diffusion(run, project(experiment={"network": {"bound": "tanh"}}))
    with pytest.raises(UserError, match="bound"):
        train_diffusion(run, project(experiment={"network": {"bound": "sigmoid"}}))


def data_of(run, **sections):
    settings = project(latents={"keep": "all"}, **sections)
    return prepare(LatentStore.open(run.latents), settings)


def test_statistics_are_those_of_the_draws(run):
    means = data_of(run)
    draws = data_of(run, experiment={"data": {"posterior": "sampled"}})
    more = np.diag(draws.statistics.covariance) - np.diag(means.statistics.covariance)
    # The posterior's variance of 4, but for chance beside latents that wander far.
    assert np.allclose(more, 4.0, atol=2.5)
    assert draws.statistics.posterior_variance is None
    latents = windows_of(draws.model, draws.store, "train").spread(1000).latents
    assert torch.allclose(latents.square().mean((0, 2)), torch.ones(DIMENSIONS), atol=0.1)


def test_the_baseline_knows_the_variance_of_scaled_windows(run):
    data = data_of(run, experiment={"data": {"scaling": "window"}})
    latents = windows_of(data.model, data.store, "train").spread(1000).latents
    assert latents.amax() == 1.0 and latents.amin() == -1.0
    assert torch.allclose(latents.square().mean((0, 2)), data.model.whitening.variance)


def test_shuffled_conditions_are_those_of_other_files(run):
    sections = {"condition": {"kinds": "mel"}, "experiment": {"data": {"pairing": "shuffled"}}}
    data = data_of(run, **sections)
    own = data_of(run, condition={"kinds": "mel"})
    shuffled, right = (windows_of(d.model, d.store, "train").spread(1000) for d in (data, own))
    assert torch.equal(shuffled.latents, right.latents)

    def correlation(batch):
        # The spectrogram is two of the latents' own dimensions.
        raw = own.model.whitening.unwhiten(batch.latents)[:, :2].flatten()
        return float(
            torch.corrcoef(torch.stack([raw, batch.condition.values["mel"].flatten()]))[0, 1]
        )

    assert correlation(right) > 0.8 and abs(correlation(shuffled)) < 0.5
