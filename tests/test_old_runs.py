"""Runs of version 0.1 still load, and sample what they sampled then.

The run in `data/version-0.1` was trained by that version, on a store it wrote: a diffwave with
attention on mel spectrograms and labels; beside it lie checkpoints of a transformer and a unet2d.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import ConfigError, UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.data import windows_of
from latentdiff.model.model import Model
from latentdiff.model.project import already_done, resolve
from latentdiff.model.resolve import open_model
from latentdiff.model.train import MAY_CHANGE, SECTIONS
from latentdiff.runs import Run, Stage
from latentdiff.specs import Condition
from latentdiff.training import checkpoint
from latentdiff.training.validation import Validator

OLD = Path(__file__).parent / "data" / "version-0.1"
BEST = OLD / "run" / "diffusion" / "checkpoints" / "best.safetensors"
CHECKPOINTS = {
    "diffwave": BEST,
    "transformer": OLD / "transformer.safetensors",
    "unet2d": OLD / "unet2d.safetensors",
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_an_old_checkpoint_samples_what_it_sampled(name):
    model = Model.load(CHECKPOINTS[name])
    condition = Condition()
    if model.standardisers:
        features = torch.linspace(-1, 1, 2 * 4 * 24).view(2, 4, 24)
        condition = Condition({"mel": features, "label": torch.tensor([0, 1])})
    # Equal steps, because dpmpp-2m takes growing ones differently since (see CHANGELOG).
    config = SamplingConfig(steps=4, spacing="logsnr")
    drawn = model.sample(config, [1, 2], 24, condition).latents
    expected = np.load(OLD / f"{name}-samples.npy")
    np.testing.assert_allclose(drawn.numpy(), expected, atol=1e-4)


def test_an_old_run_opens_with_its_store_and_its_loss(tmp_path):
    shutil.copytree(OLD / "run", tmp_path / "run")
    run = Run(tmp_path / "run")
    model, store = open_model(run, None, None, "cpu")
    assert model.labels == ["a", "b"] and model.step == 30
    assert model.condition.kinds == ("mel", "label")
    assert [entry.label for entry in store.entries] == ["a", "b", "a", "b"]
    held_out = windows_of(model, store, "validation")
    assert held_out is not None
    # As `train-diffusion` validated: 4 windows, 10 levels.
    measured = Validator(held_out.spread(4), model.task(), 10, 8).measure(
        model.denoiser, torch.device("cpu")
    )
    assert measured.loss == pytest.approx(model.validation_loss, rel=1e-3)


def test_an_old_store_gives_its_statistics():
    store = LatentStore.open(OLD / "run" / "latents")
    found = store.statistics()
    assert store.codec is not None and store.codec.hop == 64
    assert found.describe().startswith("6 dimensions, 2 carry sound")
    assert checkpoint.find(OLD / "run") == BEST


def test_an_old_run_is_done_in_todays_terms_too(tmp_path):
    shutil.copytree(OLD / "run", tmp_path / "run")
    run = Run(tmp_path / "run")
    settings = resolve(run).sections([*SECTIONS, "seed"])
    assert settings["condition"]["kinds"] == ["mel", "label"]
    assert already_done(run.diffusion, "train-diffusion", settings, {}, may_change=MAY_CHANGE)
    other = {**settings, "condition": {**settings["condition"], "kinds": ["mel"]}}
    with pytest.raises(UserError, match=r"condition\.kinds: \['mel', 'label'\] -> \['mel'\]"):
        already_done(run.diffusion, "train-diffusion", other, {})


@pytest.mark.parametrize("word", ["condition.kinds=style,mel", "condition.kind=mel"])
def test_an_old_config_is_overridden_by_either_name(word):
    run = Run(OLD / "run")
    kinds = ("style", "mel") if "style" in word else ("mel",)
    assert resolve(run, overrides=[word]).condition.kinds == kinds
    with pytest.raises(ConfigError, match="old name of kinds"):
        resolve(run, overrides=[word, "condition.kind=label", "condition.kinds=label"])


def test_a_measurement_that_records_half_a_section_is_done_too(tmp_path):
    """`condition` of a sample is what it follows, not the section."""
    now = {
        "condition": ["song.wav"],
        "sampling": SamplingConfig().model_dump(mode="json"),
        "training": {"window": 16},
    }
    old = {**now, "sampling": {k: x for k, x in now["sampling"].items() if k != "autoguidance"}}
    with Stage(tmp_path / "first", "sample", config=old):
        pass
    assert already_done(tmp_path / "first", "sample", now, {})
    with pytest.raises(UserError, match=r"training\.window: 16 -> 32"):
        already_done(tmp_path / "first", "sample", {**now, "training": {"window": 32}}, {})
