"""`train-diffusion` on small stores whose truth is known, and `sample` from what it leaves."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest
import torch

from latentdiff import config, runs
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.errors import UserError
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.tracking import read_metrics
from latentdiff.training import checkpoint

DIMENSIONS = 6
SMALL = {
    "network": {"name": "tiny", "channels": 32, "kernel": 5},
    "training": {"steps": 60, "batch": 16, "window": 32, "learning_rate": 3e-3},
    "sampling": {"steps": 8},
    "device": "cpu",
}


def project(**sections):
    return config.build(Project, config.merge(SMALL, sections))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "techno")


def result(run):
    return runs.require_done(run.diffusion, "diffusion", "train-diffusion").result


class TestTruth:
    def test_sound_is_learned(self, run, make_store):
        make_store(run.latents)
        train_diffusion(run, project())
        found = result(run)
        assert found["skill"] > 0.2 and found["validated"]
        assert found["loss"] < found["baseline"]
        assert found["step"] == 60

    def test_white_noise_has_no_skill_and_a_warning(self, run, make_store, caplog):
        make_store(run.latents, white=True)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            train_diffusion(run, project(training={"steps": 320}))
        assert abs(result(run)["skill"]) < 0.02
        (message,) = [r.message for r in caplog.records if "no skill after" in r.message]
        assert "look like white noise along time" in message and "look at:" in message

    def test_an_informative_condition_is_used_and_a_wrong_one_costs(self, run, make_store):
        make_store(run.latents, mel=True)
        train_diffusion(run, project(condition={"kinds": "mel"}, training={"steps": 150}))
        assert result(run)["conditioning_gain"] > 1.5

    def test_a_spectrogram_and_a_label_of_a_file_are_used_together(self, run, make_store, tmp_path):
        make_store(run.latents, mel=True)
        labels = tmp_path / "labels.csv"
        rows = [f"a/{i}.wav,{'odd' if i % 2 else 'even'}" for i in range(10)]
        labels.write_text("\n".join(["key,label", *rows]), encoding="utf-8")
        wanted = {"kinds": "mel,label", "labels": str(labels)}
        train_diffusion(run, project(condition=wanted, training={"steps": 150}))
        assert result(run)["conditioning_gain"] > 1.0
        assert Model.load(checkpoint.best(run.diffusion)).labels == ["even", "odd"]
        labels.write_text("\n".join(["key,label", *rows[:8]]), encoding="utf-8")
        with pytest.raises(UserError, match="2 of 10 recordings have no label"):
            train_diffusion(Run(run.root / "other"), project(condition=wanted), latents=run.latents)

    def test_a_regression_learns_what_the_condition_determines(self, run, make_store):
        make_store(run.latents, mel=True)
        diffusion = {"parametrisation": "regression"}
        with pytest.raises(UserError, match="regression needs a condition"):
            train_diffusion(run, project(condition={"kinds": "none"}, diffusion=diffusion))
        settings = project(condition={"kinds": "mel"}, diffusion=diffusion, training={"steps": 150})
        train_diffusion(run, settings)
        # The condition is one of the two directions of sound.
        assert 0.3 < result(run)["skill"] < 0.75
        assert result(run)["conditioning_gain"] > 0.5

    @pytest.mark.parametrize("scaling", ["posterior", "global"])
    def test_other_scalings_begin_at_skill_zero_and_learn(self, run, make_store, scaling):
        make_store(run.latents)
        train_diffusion(run, project(latents={"scaling": scaling, "keep": 4}))
        model = Model.load(checkpoint.best(run.diffusion))
        assert model.whitening.variance.max() > 2 * model.whitening.variance.min()
        assert torch.equal(model.denoiser.variance, model.whitening.variance)
        assert result(run)["skill"] > 0.15

    @pytest.mark.parametrize("name", ["logit-normal", "edm", "adaptive"])
    def test_other_levels_train(self, run, make_store, name):
        make_store(run.latents)
        train_diffusion(run, project(diffusion={"levels": {"name": name}}))
        assert result(run)["skill"] > 0.2

    def test_every_loss_stands_beside_its_baseline(self, run, make_store):
        make_store(run.latents)
        train_diffusion(run, project(training={"validate_every": 20, "log_every": 10}))
        rows = read_metrics(run.diffusion)
        training = [row for row in rows if "loss" in row]
        validation = [row for row in rows if "validation/loss" in row]
        assert [row["step"] for row in training] == [10, 20, 30, 40, 50, 60]
        assert [row["step"] for row in validation] == [20, 40, 60]
        for row in training:
            assert row["skill"] == pytest.approx(1 - row["loss"] / row["baseline"])
        levels = [key for key in validation[0] if key.startswith("validation/loss@")]
        assert len(levels) == 12
        for key in levels:
            assert key.replace("loss", "skill") in validation[0]
            assert key.replace("loss", "baseline") in validation[0]
        assert list(run.diffusion.glob("events.*"))

    def test_the_log_at_the_start_and_end(self, run, make_store, caplog):
        make_store(run.latents)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            train_diffusion(run, project(training={"steps": 20}))
        text = caplog.text
        assert "6 dimensions, 2 carry sound" in text
        assert "train: 8 files, 2400 frames, 0.3 minutes" in text
        assert "validation: 2 files" in text
        assert "tiny:" in text and "predicts zero 1.0000" in text
        assert "tensorboard --logdir" in text and "best at step 20" in text


class TestResume:
    def test_raised_steps_continue(self, run, make_store, caplog):
        make_store(run.latents)
        train_diffusion(run, project(training={"steps": 20}))
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            train_diffusion(run, project(training={"steps": 40, "learning_rate": 1e-3}))
        assert "continuing from step 20 of 40" in caplog.text
        assert result(run)["step"] == 40
        steps = [row["step"] for row in read_metrics(run.diffusion) if "loss" in row]
        assert steps == [10, 20, 30, 40]

    def test_a_finished_run_logs_it_and_changes_nothing(self, run, make_store, caplog):
        make_store(run.latents)
        train_diffusion(run, project(training={"steps": 10}))
        before = checkpoint.state(run.diffusion).stat().st_mtime_ns
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            train_diffusion(run, project(training={"steps": 10}))
        assert "already done" in caplog.text
        assert checkpoint.state(run.diffusion).stat().st_mtime_ns == before

    @pytest.mark.parametrize(
        ("section", "key", "value"),
        [
            ("network", "channels", 16),
            ("training", "window", 16),
            ("latents", "keep", 1),
            ("diffusion", "parametrisation", "eps"),
        ],
    )
    def test_what_may_not_change_is_refused_with_the_difference(
        self, run, make_store, section, key, value
    ):
        make_store(run.latents)
        train_diffusion(run, project(training={"steps": 10}))
        changed = config.merge({"training": {"steps": 20}}, {section: {key: value}})
        with pytest.raises(UserError, match=rf"{section}\.{key}: .* -> {value}"):
            train_diffusion(run, project(**changed))

    def test_other_latents_are_refused(self, run, make_store, tmp_path):
        make_store(run.latents)
        other = make_store(tmp_path / "other", seed=1, files=11)
        train_diffusion(run, project(training={"steps": 10}))
        with pytest.raises(UserError, match="latents: another than then"):
            train_diffusion(run, project(training={"steps": 20}), latents=other)

    def test_overwrite_starts_over(self, run, make_store):
        make_store(run.latents)
        train_diffusion(run, project(training={"steps": 10}))
        train_diffusion(run, project(training={"steps": 12, "window": 16}), overwrite=True)
        assert result(run)["step"] == 12

    def test_a_run_that_failed_before_its_first_checkpoint_blocks_nothing(self, run, make_store):
        make_store(run.latents)
        z = np.load(run.latents / "3.npy")
        z[2, 7] = np.nan
        np.save(run.latents / "3.npy", z)
        with pytest.raises(UserError, match=r"a/3\.wav hold NaN"):
            train_diffusion(run, project())
        np.save(run.latents / "3.npy", np.nan_to_num(z))
        train_diffusion(run, project(training={"steps": 5, "window": 16}))
        assert result(run)["step"] == 5


class TestChecks:
    def test_no_latents(self, run):
        with pytest.raises(UserError, match="no latents"):
            train_diffusion(run, project())

    def test_no_training_files(self, run, make_store):
        make_store(run.latents, files=3, held_out=2)
        rows = runs.read_jsonl(run.latents / "manifest.jsonl")
        runs.write_jsonl(run.latents / "manifest.jsonl", rows[:2])
        with pytest.raises(UserError, match="no training files"):
            train_diffusion(run, project())

    def test_no_validation_file_is_reported(self, run, make_store, caplog):
        make_store(run.latents, held_out=0)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            train_diffusion(run, project(training={"steps": 10}))
        assert "no file is held out" in caplog.text
        assert result(run)["validated"] is False
        assert checkpoint.find(run.diffusion) == checkpoint.last(run.diffusion)

    def test_a_window_longer_than_every_file_is_shortened_with_a_warning(
        self, run, make_store, caplog
    ):
        make_store(run.latents, frames=40)
        settings = project(training={"window": 64, "steps": 2})
        with caplog.at_level(logging.WARNING, logger="latentdiff"):
            train_diffusion(run, settings)
        assert "training.window: 39 frames instead of 64" in caplog.text
        assert Model.load(checkpoint.best(run.diffusion)).spec.window == 39
        # The same command again is the same run.
        train_diffusion(run, settings)

    def test_a_window_is_never_shortened_to_nothing(self, run, make_store):
        make_store(run.latents, files=3, held_out=1, frames=12)
        with pytest.raises(UserError, match=r"training\.batch=2 or less"):
            train_diffusion(run, project(training={"window": 64}))

    def test_batch_larger_than_the_windows(self, run, make_store):
        make_store(run.latents, files=3, held_out=1, frames=36)
        with pytest.raises(UserError, match=r"training\.batch=10 or less"):
            train_diffusion(run, project())

    def test_a_dry_run_fails_and_warns_as_the_run_would(self, run, make_store, monkeypatch, caplog):
        make_store(run.latents)
        short = project(diffusion={"schedule": {"name": "diffwave"}})
        with caplog.at_level(logging.WARNING, logger="latentdiff"):
            train_diffusion(run, short, dry_run=True)
        assert "never reaches pure noise" in caplog.text
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(UserError, match="Weights & Biases is not installed"):
            train_diffusion(run, project(training={"wandb": "techno"}), dry_run=True)

    def test_statistics_missing(self, run, make_store):
        make_store(run.latents)
        (run.latents / "stats.safetensors").unlink()
        with pytest.raises(UserError, match="cannot read the latent statistics"):
            train_diffusion(run, project())

    def test_mel_wanted_and_not_stored(self, run, make_store):
        make_store(run.latents)
        with pytest.raises(UserError, match="cannot follow the mel") as error:
            train_diffusion(run, project(condition={"kinds": "mel"}))
        assert "a/2.wav has none" in str(error.value)

    def test_other_mel_settings_than_the_latents_were_made_with(self, run, make_store):
        make_store(run.latents, mel=True)
        wanted = {"kinds": "mel", "mel": {"bands": 40}}
        with pytest.raises(UserError, match=r"condition\.mel\.bands: 80 -> 40"):
            train_diffusion(run, project(condition=wanted))

    def test_dry_run_writes_nothing(self, run, make_store, caplog):
        make_store(run.latents)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            train_diffusion(run, project(), dry_run=True)
        assert "dry run" in caplog.text and not run.diffusion.exists()

    def test_a_plain_folder_of_arrays(self, run, tmp_path, caplog):
        rng = np.random.default_rng(0)
        for i in range(5):
            path = tmp_path / "plain" / f"{i}.npy"
            path.parent.mkdir(exist_ok=True)
            np.save(path, rng.standard_normal((1, 3, 200), np.float32))
        train_diffusion(run, project(training={"steps": 10}), latents=tmp_path / "plain")
        assert result(run)["step"] == 10
        assert "does not name the codec of its latents" in caplog.text
        assert "trained without the condition beat" in caplog.text
        model = Model.load(checkpoint.best(run.diffusion))
        assert model.condition.kinds == ("style",) and len(model.references) == 4

    def test_a_damaged_state_is_named(self, run, make_store):
        make_store(run.latents)
        train_diffusion(run, project(training={"steps": 10}))
        path = checkpoint.state(run.diffusion)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(UserError, match=r"last\.state\.pt is damaged"):
            train_diffusion(run, project(training={"steps": 20}))

    def test_the_checkpoint_describes_itself(self, run, make_store):
        make_store(run.latents)
        train_diffusion(run, project(training={"steps": 10}))
        header = checkpoint.load_weights(checkpoint.last(run.diffusion)).header
        assert header["codec"]["fingerprint"] == "c" * 64 and header["step"] == 10
        assert header["network"]["name"] == "tiny" and header["validation"]["skill"] < 1
        assert json.dumps(header)
