"""`diagnose noise-ladder` with a linear codec of twenty lines, and what training makes of it."""

from __future__ import annotations

import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from latentdiff import config
from latentdiff.commands.encode import encode
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.diagnose.noise_ladder.measure import diagnose_noise_ladder
from latentdiff.diffusion import baseline
from latentdiff.diffusion.loss import Objective
from latentdiff.errors import UserError
from latentdiff.evaluation.tolerance import RUNGS, crossing, error_of, tolerance
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model import residual
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.training.validation import Validation


class TestTolerance:
    def test_it_lies_where_the_distance_crosses_the_nearer_limit(self):
        rungs, distances = (0.1, 0.5, 1.0), (0.5, 1.0, 3.0)
        half = tolerance(rungs, distances, of_noise=4.0, of_codec=2.5)
        assert (half.limit, half.criterion) == (2.0, "half-way to noise")
        assert half.std == pytest.approx(0.75)
        assert half.logsnr == pytest.approx(-2 * math.log(0.75))
        codec = tolerance(rungs, distances, of_noise=4.0, of_codec=0.25)
        assert codec.criterion == "the codec's own error" and codec.std == pytest.approx(0.05)
        assert tolerance(rungs, distances, of_noise=4.0, of_codec=None) == half

    def test_a_decoder_that_tolerates_everything_has_no_limit(self):
        found = tolerance((1.0, 2.0), (0.1, 0.2), of_noise=4.0, of_codec=None)
        assert found.std is None and found.logsnr is None

    def test_a_decoder_that_ignores_its_latents_has_no_tolerance(self):
        found = tolerance((1.0, 2.0), (0.001, 0.02), of_noise=0.01, of_codec=9.0)
        assert found.std is None and found.criterion == "nothing is heard of latents"

    def test_crossing_needs_a_beginning_below(self):
        assert crossing([0, 1], [2, 3], 1.0) is None

    @pytest.mark.parametrize("kind", ["mse", "l1"])
    @pytest.mark.parametrize("parametrisation", ["eps", "v", "x0", "flow"])
    @pytest.mark.parametrize("weighting", ["uniform", "min-snr"])
    def test_the_error_behind_a_loss_of_known_error(self, parametrisation, kind, weighting):
        objective = Objective(parametrisation, weighting, kind)
        level = torch.tensor([1.5])
        # Of unit variance the best that knows only that leaves an error of sigma.
        loss = float(baseline.variance_only(objective, level, torch.ones(1)))
        assert error_of(objective, loss, 1.5) == pytest.approx(
            float(torch.sigmoid(-level).sqrt()), rel=1e-4
        )


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def encoded(run, codec, tmp_path, write_wav, melody):
    """A run with the latents of eight tunes; the settings it was made with."""
    run.rave.mkdir(parents=True)
    for i in range(8):
        write_wav(tmp_path / "music" / f"{i}.wav", melody(1.5, seed=i))
    settings = config.build(
        Project,
        {
            "data": {"sample_rate": 8000, "validation": 0.3},
            "latents": {"keep": 4},
            "condition": {"mel": {"sample_rate": 8000, "n_fft": 256, "hop": 128, "bands": 5}},
            "device": "cpu",
        },
    )
    encode(run, settings, audio=[tmp_path / "music"])
    return settings


def folder(run):
    return run.root / "diagnosis" / "noise-ladder"


def results(run):
    return json.loads((folder(run) / "noise-ladder.json").read_text(encoding="utf-8"))


def keeping(settings, keep):
    return settings.model_copy(update={"latents": settings.latents.model_copy(update=keep)})


def test_the_ladder_climbs_from_no_noise_to_what_breaks_the_sound(run, encoded):
    assert diagnose_noise_ladder(run, encoded, n=3, seconds=0.5) == []
    found = results(run)
    distances = [rung["distance_db"] for rung in found["rungs"]]
    assert [rung["k"] for rung in found["rungs"]] == list(RUNGS)
    assert distances == sorted(distances) and distances[0] > 0
    assert found["held_out"] and found["clips"] == 3
    assert RUNGS[0] / 4 < found["tolerance_std"] < RUNGS[-1]
    assert found["tolerance_logsnr"] == pytest.approx(
        -2 * math.log(found["tolerance_std"]), abs=0.01
    )
    # Directions left out are heard the more, the more noise they are given.
    left = [rung["distance_db"] for rung in found["left_out_rungs"]]
    assert left == sorted(left)
    assert found["all_directions"]["distance_db"] < found["others"]["white noise"]["distance_db"]
    assert found["codec_db"] > 0 and found["kept_codec_db"] > 0


def test_a_linear_codec_mixes_sounds_where_latents_are_mixed(run, encoded):
    diagnose_noise_ladder(run, encoded, n=3, seconds=0.5)
    others = results(run)["others"]
    for name in ("mean of all", "half-way"):
        assert others[name]["to_mix_db"] < 0.01 < others[name]["distance_db"]
    assert others["zeros"]["level_db"] == -200


def test_text_picture_and_sounds_are_left(run, encoded):
    diagnose_noise_ladder(run, encoded, n=3, seconds=0.5)
    text = (folder(run) / "noise-ladder.txt").read_text(encoding="utf-8")
    for words in (
        "The decoder tolerates noise of",
        "k 1     log-SNR  +0.0",
        "the codec's own error",
        "as in an exported RAVE",
        "silent",
        "to the mixed sound",
    ):
        assert words in text
    assert (folder(run) / "noise-ladder.png").read_bytes().startswith(b"\x89PNG")
    sounds = {path.name for path in (folder(run) / "audio").glob("*.wav")}
    assert {"k-1-0.wav", "k-1-1.wav", "white-noise-0.wav", "left-out-1-0.wav"} <= sounds
    seconds = soundfile.info(folder(run) / "audio" / "k-1-0.wav").duration
    assert seconds == pytest.approx(results(run)["clip_seconds"], abs=1e-3)


def test_a_codec_that_ignores_its_latents_is_named(run, encoded, codec, monkeypatch):
    whole = codec.decode
    monkeypatch.setattr(codec, "decode", lambda z: whole(torch.ones_like(z)))
    diagnose_noise_ladder(run, encoded, n=2, seconds=0.5)
    text = (folder(run) / "noise-ladder.txt").read_text(encoding="utf-8")
    assert "the decoder ignores its latents" in text and "broken" not in text
    assert results(run)["tolerance_std"] is None


def test_the_same_seed_gives_the_same_ladder(run, encoded):
    diagnose_noise_ladder(run, encoded, n=2, seconds=0.5)
    first = results(run)
    diagnose_noise_ladder(run, encoded, n=2, seconds=0.5, overwrite=True)
    assert results(run) == first
    with pytest.raises(UserError, match="made with other settings or inputs"):
        diagnose_noise_ladder(run, encoded, n=3, seconds=0.5)


def test_where_all_directions_are_kept_none_is_left_out(run, encoded):
    diagnose_noise_ladder(run, keeping(encoded, {"keep": "all"}), n=2, seconds=0.5)
    assert results(run)["left_out_rungs"] == []
    assert results(run)["all_directions"]["distance_db"] == pytest.approx(0, abs=1e-3)


def test_missing_recordings_skip_one_measurement(run, encoded, tmp_path):
    for path in (tmp_path / "music").glob("*.wav"):
        path.unlink()
    (skipped,) = diagnose_noise_ladder(run, encoded, n=2, seconds=0.5)
    assert "codec's own error was not measured" in skipped
    assert results(run)["codec_db"] is None
    assert results(run)["criterion"] == "half-way to noise"


def test_training_reads_the_ladder_at_its_end(run, encoded, caplog):
    folder(run).mkdir(parents=True)
    found = {"tolerance_std": 0.9, "tolerance_logsnr": 0.21, "kept": 4, "dimensions": 8}
    (folder(run) / "noise-ladder.json").write_text(json.dumps(found))
    quick = {"steps": 10, "batch": 4, "window": 16, "demo_samples": 0, "calibration_samples": 0}
    small = {"training": quick, "network": {"name": "tiny", "channels": 8}}
    settings = config.build(Project, config.merge(encoded.model_dump(mode="json"), small))
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        train_diffusion(run, settings)
    assert "the decoder tolerates 0.9" in caplog.text and "inaudible" in caplog.text


def test_no_codec_no_ladder(run, encoded):
    run.rave.rmdir()
    with pytest.raises(UserError, match="the codec of the latents in"):
        diagnose_noise_ladder(run, encoded)


class TestResidual:
    """What `train-diffusion` logs about it."""

    @pytest.fixture
    def data(self, run):
        whitening = Whitening(torch.zeros(6), torch.eye(6)[:2], torch.ones(2))
        model = SimpleNamespace(whitening=whitening)
        return SimpleNamespace(store=LatentStore(run.latents, [], 6), model=model)

    @pytest.fixture
    def logged(self, run, data, caplog):
        """`logged(std, losses)`: what is logged for v losses at log-SNR 4, 0 and -4."""

        def log(std, losses, kept=2, owner=None, schedule="cosine"):
            path = folder(owner or run) / "noise-ladder.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            found = {"tolerance_std": std, "tolerance_logsnr": None, "kept": kept, "dimensions": 6}
            path.write_text(json.dumps(found))
            settings = config.build(Project, {"diffusion": {"schedule": {"name": schedule}}})
            found = Validation([4.0, 0.0, -4.0], losses, [1.0, 1.0, 1.0], None)
            with caplog.at_level(logging.INFO, logger="latentdiff"):
                residual.log_residual_noise(run, settings, data, found)
            return caplog.text

        return log

    def test_noise_below_the_tolerance_is_inaudible(self, logged):
        # sigma at log-SNR 4, 0, -4: 0.134, 0.707, 0.991; errors are half of that.
        text = logged(0.5, [0.25, 0.25, 0.25])
        assert "log-SNR +4.0: 0.067 standard deviations" in text and "tolerates 0.5" in text
        assert "inaudible" in text and "at every validated level" in text

    def test_the_level_from_which_estimates_are_clean_is_logged(self, logged):
        text = logged(0.4, [0.25, 0.25, 0.25])
        at = -4 * (0.4 - 0.35355) / (0.49549 - 0.35355)
        without = 4 - 4 * (0.4 - 0.13412) / (0.70711 - 0.13412)
        assert f"from log-SNR {at:+.1f} up (variance-only baseline: from {without:+.1f} up)" in text

    def test_noise_above_it_is_a_warning(self, logged, caplog):
        assert ": audible." in logged(0.05, [0.25, 0.25, 0.25])
        assert [r.levelname for r in caplog.records] == ["WARNING"]

    @pytest.mark.parametrize(
        ("schedule", "setting"),
        [
            ("cosine", "raise diffusion.schedule.logsnr_max"),
            ("betas", "lower diffusion.schedule.beta_start"),
            ("audioldm", "choose another diffusion.schedule.name"),
        ],
    )
    def test_advice_names_a_setting_that_the_schedule_reads(self, logged, schedule, setting):
        assert setting in logged(0.05, [0.25, 0.25, 0.25], schedule=schedule)

    def test_a_ladder_of_other_directions_is_ignored(self, logged):
        assert logged(0.5, [0.25, 0.25, 0.25], kept=3) == ""

    def test_a_decoder_that_tolerates_everything_logs_nothing(self, logged):
        assert logged(None, [0.25, 0.25, 0.25]) == ""

    def test_the_ladder_beside_the_latents_counts_too(self, logged, data, tmp_path):
        other = Run(tmp_path / "other")
        data.store = LatentStore(other.latents, [], 6)
        assert "inaudible" in logged(0.5, np.full(3, 0.25).tolist(), owner=other)
