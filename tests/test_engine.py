"""The engine around the loop: budgets, parts, averages, checkpoints, early ends, failures."""

from __future__ import annotations

import errno
import itertools
import logging
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import ConditionDropout, Denoiser
from latentdiff.diffusion.levels import build_noise_level_sampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.settings import LevelsConfig, ScheduleConfig
from latentdiff.errors import UserError
from latentdiff.networks.build import build
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import ConditionSize
from latentdiff.tracking import read_metrics
from latentdiff.tracking.metrics import Metrics
from latentdiff.training import checkpoint
from latentdiff.training.best_tracker import IN_A_ROW, BestTracker
from latentdiff.training.data import Recording, Windows
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.failure import explained, refuse_not_finite
from latentdiff.training.meter import NonFiniteStep, TrainingMetrics
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import Task
from latentdiff.training.trainer import Trainer
from latentdiff.training.validation import Validation, Validator

SCHEDULE = noise.build(ScheduleConfig())


def walks(seed, files=6, frames=200):
    """Windows of slow random walks, about unit variance, with a condition that determines them."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((files, 2, frames)).astype(np.float32)
    arrays = [np.stack([np.convolve(c, np.ones(16) / 4, "same") for c in z]) for z in steps]
    recordings = [Recording(f"{i}.wav", z, features=z[:1]) for i, z in enumerate(arrays)]
    return Windows(recordings, 16, whiten=lambda z: z, standardise=lambda f: f)


def counted():
    """Two files of two channels whose frames are numbered."""
    return np.arange(2 * 2 * 90, dtype=np.float32).reshape(2, 2, 90)


def make_trainer(directory, *, levels="schedule", dropout=0.1, demo=None, **settings):
    config = {"steps": 30, "batch": 12, "window": 16, "learning_rate": 3e-3}
    config |= {"log_every": 10, "validation_windows": 8}
    torch.manual_seed(0)
    network = build(NetworkConfig(name="tiny", channels=8), 2, {"mel": ConditionSize(features=1)})
    directory.mkdir(parents=True, exist_ok=True)
    return Trainer(
        Denoiser(network),
        Task(Objective(), SCHEDULE, build_noise_level_sampler(LevelsConfig(name=levels), SCHEDULE)),
        walks(0),
        walks(1, files=2),
        TrainingConfig(**(config | settings)),
        directory,
        condition_dropout=ConditionDropout(dropout),
        device="cpu",
        frame_rate=20.0,
        demo=demo,
    )


def state_of(directory):
    return checkpoint.load_state(checkpoint.state(directory))


def farthest(a, b):
    """Largest difference between two networks' weights."""
    return max(float((a[key] - b[key]).abs().max()) for key in a)


class TestBudget:
    def test_hours_end_a_training_and_count_former_attempts(self, tmp_path, monkeypatch):
        ticks = itertools.count()
        clock = SimpleNamespace(monotonic=lambda: next(ticks) / 100)
        monkeypatch.setattr("latentdiff.training.trainer.time", clock)
        first = make_trainer(tmp_path, steps=None, hours=0.5 / 3600).fit()
        state = state_of(tmp_path)
        assert first.step == state["step"] > 10 and state["elapsed"] >= 0.5
        again = make_trainer(tmp_path, steps=None, hours=0.5 / 3600).fit()
        assert again.step == first.step
        longer = make_trainer(tmp_path, steps=None, hours=1.0 / 3600).fit()
        assert longer.step > first.step
        rates = [row["learning_rate"] for row in read_metrics(tmp_path) if "learning_rate" in row]
        assert rates[-1] < 0.1 * max(rates)

    def test_steps_end_it_where_they_are_sooner(self, tmp_path):
        assert make_trainer(tmp_path, steps=7, hours=1).fit().step == 7


class TestParts:
    @pytest.mark.parametrize(("parts", "levels"), [(5, "schedule"), (12, "adaptive")])
    def test_a_batch_in_parts_is_the_whole_batch(self, tmp_path, parts, levels):
        make_trainer(tmp_path / "whole", levels=levels).fit()
        make_trainer(tmp_path / "parts", levels=levels, accumulate=parts).fit()
        whole, in_parts = (state_of(tmp_path / name) for name in ("whole", "parts"))
        assert in_parts["seen"] == whole["seen"] == 30 * 12
        assert farthest(whole["model"], in_parts["model"]) < 1e-5

    def test_parts_lose_no_window(self, tmp_path):
        draw = make_trainer(tmp_path)._batch_sampler.draw(1)
        for count in (1, 5, 12, 40):
            parts = list(draw.parts(count))
            assert len(parts) == min(count, 12)
            assert torch.equal(torch.cat([p.batch.latents for p in parts]), draw.batch.latents)
            assert torch.equal(torch.cat([p.noise for p in parts]), draw.noise)

    def test_more_parts_than_windows_are_refused(self):
        with pytest.raises(ValueError, match="accumulate"):
            TrainingConfig(batch=4, accumulate=5)


class TestSource:
    def test_windows_fetched_ahead_from_disk_are_those_in_memory(self, tmp_path):
        near = make_trainer(tmp_path / "memory")._batch_sampler
        recordings = [Recording(k, z) for k, z in zip("ab", counted(), strict=True)]
        disk, memory = (
            Windows(recordings, 16, whiten=lambda z: z, memory_gb=gb, scratch=tmp_path)
            for gb in (0, 1)
        )
        assert disk.slow and not memory.slow
        sources = [replace(near, windows=w, _ahead={}) for w in (disk, memory)]
        # In order, again, and out of order: what was fetched in vain does no harm.
        for step in (1, 2, 3, 3, 9, 4):
            a, b = (source.draw(step) for source in sources)
            assert torch.equal(a.batch.latents, b.batch.latents)
            assert torch.equal(a.batch.files, b.batch.files)


class TestMetrics:
    def test_a_line_of_metrics_is_read_back_from_its_names(self):
        metrics = TrainingMetrics(0.3, 0.4, 0.1, 120.0, 0.02, 1.5)
        values = metrics.metrics()
        assert values["skill"] == pytest.approx(0.25) and "audio_seconds_per_second" not in values
        assert TrainingMetrics.from_metrics(values) == metrics


class TestSpeed:
    def test_metrics_show_what_limits_the_speed(self, tmp_path):
        make_trainer(tmp_path).fit()
        row = next(row for row in read_metrics(tmp_path) if "loss" in row)
        assert row["windows_per_second"] == pytest.approx(12 / row["step_seconds"])
        sound = row["windows_per_second"] * 16 / 20.0
        assert row["audio_seconds_per_second"] == pytest.approx(sound)
        assert 0 < row["data_wait"] < 1 and row["gradient_norm"] > 0

    def test_slow_data_is_seen(self, tmp_path, monkeypatch):
        trainer = make_trainer(tmp_path, steps=10)
        draw = type(trainer._batch_sampler).draw

        def slow(source, step):
            time.sleep(0.05)
            return draw(source, step)

        monkeypatch.setattr(type(trainer._batch_sampler), "draw", slow)
        trainer.fit()
        (row,) = [row for row in read_metrics(tmp_path) if "loss" in row]
        assert row["data_wait"] > 0.5


class TestAverages:
    def test_each_is_kept_and_the_best_wins(self, tmp_path):
        halflives = (12, 100_000)
        trainer = make_trainer(tmp_path, ema_halflives=halflives, steps=60)
        outcome = trainer.fit()
        assert outcome.best.halflife in halflives
        assert outcome.best.loss == min(outcome.best.averages)
        files = [checkpoint.average(tmp_path, h) for h in halflives]
        weights = [checkpoint.load_weights(f) for f in files]
        assert [w.header["ema_halflife"] for w in weights] == list(halflives)
        for w, average in zip(weights, trainer._learner.averages, strict=True):
            assert farthest(w.group("network"), average.module.state_dict()) == 0
        assert farthest(weights[0].group("network"), weights[1].group("network")) > 0
        best = checkpoint.load_weights(checkpoint.best(tmp_path)).header
        assert best["ema_halflife"] == outcome.best.halflife

    def test_resumed_with_another_halflife_it_begins_at_the_nearest(self, tmp_path):
        make_trainer(tmp_path, ema_halflives=(12, 1000)).fit()
        kept = state_of(tmp_path)
        trainer = make_trainer(tmp_path, ema_halflives=(1100,))
        trainer._restore()
        (average,) = trainer._learner.averages
        assert farthest(average.module.state_dict(), kept["more_ema"][0]) == 0

    def test_the_settings_outlive_a_resume(self, tmp_path):
        make_trainer(tmp_path, steps=5).fit()
        trainer = make_trainer(tmp_path, steps=6, weight_decay=0.25)
        trainer.fit()
        assert state_of(tmp_path)["optimizer"]["param_groups"][0]["weight_decay"] == 0.25


class TestCompile:
    def test_on_failure_it_warns_and_trains_uncompiled(self, tmp_path, monkeypatch, caplog):
        def broken(*args, **kwargs):
            raise RuntimeError("no C++ compiler was found")

        trainer = make_trainer(tmp_path, compile=True)
        network = trainer._learner.network
        monkeypatch.setattr(
            network, "compile", lambda: setattr(network, "_compiled_call_impl", broken)
        )
        with caplog.at_level(logging.WARNING, logger="latentdiff"):
            assert trainer.fit().step == 30
        assert "torch.compile failed" in caplog.text and "no C++ compiler" in caplog.text


class TestLevels:
    def test_adaptive_levels_continue_bit_for_bit(self, tmp_path):
        make_trainer(tmp_path / "whole", levels="adaptive").fit()
        make_trainer(tmp_path / "parts", levels="adaptive", steps=20, decay=0).fit()
        first = state_of(tmp_path / "parts")["levels"]
        assert first["counts"].sum() > 0
        trainer = make_trainer(tmp_path / "parts", levels="adaptive")
        trainer._restore()
        assert torch.equal(trainer._batch_sampler.task.state_dict()["sums"], first["sums"])


def validation(loss, training=None):
    return Validation([0.0], [loss], [1.0], None, training=training)


class TestWatch:
    def test_overfitting_is_warned_of_once_after_a_while(self):
        tracker = BestTracker()
        assert tracker.update(100, validation(0.5, training=0.5))
        warned = []
        for k in range(IN_A_ROW + 2):
            assert not tracker.update(200 + k, validation(0.6, training=0.4))
            warned.append(tracker.overfitting())
        assert warned == [False] * (IN_A_ROW - 1) + [True, False, False]
        assert tracker.best_step == 100 and tracker.since == IN_A_ROW + 2

    @pytest.mark.parametrize(("loss", "training"), [(0.6, 0.55), (0.505, 0.4)])
    def test_not_where_training_rose_too_or_the_rise_is_slight(self, loss, training):
        tracker = BestTracker()
        tracker.update(100, validation(0.5, training=0.5))
        for k in range(2 * IN_A_ROW):
            tracker.update(200 + k, validation(loss, training=training))
            assert not tracker.overfitting()

    def test_a_new_best_resets_the_count(self):
        tracker = BestTracker()
        for loss in [0.5, 0.6, 0.6, 0.4, 0.5, 0.5]:
            tracker.update(0, validation(loss, training=loss - 0.4))
            assert not tracker.overfitting()
        assert tracker.since == 2 and tracker.exhausted(2) and not tracker.exhausted(3)
        assert not tracker.exhausted(None)

    def test_the_newest_weights_are_kept_until_the_loss_has_risen(self):
        tracker = BestTracker()
        losses = {100: 0.5, 200: 0.505, 300: 0.52, 400: 0.53, 500: 0.51}
        kept = {step: tracker.update(step, validation(loss)) for step, loss in losses.items()}
        assert kept == {100: True, 200: True, 300: True, 400: False, 500: True}
        assert (tracker.best_step, tracker.lowest_step, tracker.since) == (
            500,
            100,
            4,
        )
        assert tracker.best is not None and tracker.best.loss == 0.51

    def test_its_state_is_all_of_it(self):
        tracker, other = BestTracker(), BestTracker()
        for k, loss in enumerate([0.5, 0.6, 0.6]):
            tracker.update(k, validation(loss, training=1 - loss))
        other.load_state_dict(tracker.state_dict())
        assert other.state_dict() == tracker.state_dict() and other.lowest == tracker.lowest


class TestOverfitting:
    def test_it_is_warned_of_while_training_and_patience_ends_it(self, tmp_path, caplog):
        # One file to learn by heart, at a rate that does so quickly; held out is white noise.
        trainer = make_trainer(
            tmp_path, steps=400, validate_every=10, patience=6, learning_rate=0.03, dropout=0.0
        )
        rng = np.random.default_rng(5)
        flat = trainer._evaluator._held_out.windows
        features = torch.from_numpy(rng.standard_normal(flat.condition.values["mel"].shape))
        wrong = flat.condition.with_kind("mel", features.float())
        trainer._evaluator._held_out.windows = flat._replace(condition=wrong)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            outcome = trainer.fit()
        assert outcome.step < 400
        assert f"at step {trainer._best_tracker.lowest_step}" in caplog.text
        assert caplog.text.count("overfitting: the held-out loss has risen") == 1
        assert "stopped early at step" in caplog.text
        assert state_of(tmp_path)["step"] == outcome.step
        assert outcome.validation.loss > outcome.best.loss


class TestValidation:
    def test_raw_weights_and_training_files_stand_beside(self, tmp_path):
        outcome = make_trainer(tmp_path, steps=40, validate_every=20).fit()
        values = outcome.validation.metrics()
        assert {"raw_loss", "training_loss", "training_skill", "conditioning_gain"} <= set(values)
        assert outcome.validation.raw != outcome.validation.loss
        rows = [row for row in read_metrics(tmp_path) if "validation/loss" in row]
        assert all(0 < row["validation/share_of_time"] < 1 for row in rows) and len(rows) == 2

    def test_a_thinned_grid_agrees_with_the_whole_one(self):
        task = Task(Objective(), SCHEDULE)
        windows = walks(0).spread(60)

        def tame(z, logsnr, condition):
            return 0.7 * task.knows_variance(z, logsnr, condition) + 0.1 * condition.features

        cpu = torch.device("cpu")
        whole, thin = (Validator(windows, task, 12, 16, thin=n) for n in (1, 4))
        a, b = (v.measure(tame, cpu, raw=task.knows_variance) for v in (whole, thin))
        assert a.losses == b.losses
        assert b.raw == pytest.approx(a.raw, rel=0.1)
        assert b.shuffled == pytest.approx(a.shuffled, rel=0.1)
        assert thin.brief(tame, cpu)[0] == pytest.approx(a.loss, rel=0.1)
        assert whole.brief(tame, cpu) == (pytest.approx(a.loss), pytest.approx(a.baseline))


class TestCheckpoints:
    def test_those_to_keep_stay_and_are_pruned(self, tmp_path):
        make_trainer(tmp_path, steps=60, keep_every=10, keep_last=2).fit()
        folder = tmp_path / checkpoint.FOLDER
        kept = sorted(path.name for path in folder.glob("step-*"))
        assert kept == [
            f"step-{step:08d}.{kind}" for step in (50, 60) for kind in ("safetensors", "state.pt")
        ]
        weights, state = checkpoint.kept(tmp_path, 50)
        assert checkpoint.load_state(state)["step"] == 50
        assert checkpoint.load_weights(weights).header["step"] == 50

    @pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
    def test_the_newest_whole_state_is_used_and_the_damaged_one_named(
        self, tmp_path, caplog, damage
    ):
        make_trainer(tmp_path / "whole", checkpoint_every=10).fit()
        make_trainer(tmp_path / "parts", checkpoint_every=10).fit()
        path = checkpoint.state(tmp_path / "parts")
        data = bytearray(path.read_bytes())
        if damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "flipped":
            # Amid the weights, where no reader stumbles by itself.
            weights = next(iter(state_of(tmp_path / "parts")["model"].values()))
            data[data.find(weights.numpy().tobytes()) + 5] ^= 0xFF
            path.write_bytes(data)
        else:
            path.unlink()
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            make_trainer(tmp_path / "parts", checkpoint_every=10).fit()
        assert "continuing from step 20" in caplog.text
        assert ("last.state.pt is damaged" in caplog.text) == (damage != "gone")
        whole, parts = (state_of(tmp_path / name) for name in ("whole", "parts"))
        assert farthest(whole["model"], parts["model"]) == 0
        steps = [row["step"] for row in read_metrics(tmp_path / "parts") if "loss" in row]
        assert steps == [10, 20, 30]

    def test_a_full_disk_leaves_the_older_ones_whole(self, tmp_path, monkeypatch):
        make_trainer(tmp_path, steps=10).fit()
        before = checkpoint.load_weights(checkpoint.last(tmp_path))
        write = checkpoint._write

        def fills_up(values, handle):
            write(values, handle)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint, "_write", fills_up)
        with pytest.raises(UserError, match=r"cannot write .*last\.state\.pt") as error:
            make_trainer(tmp_path, steps=20).fit()
        assert "No space left" in str(error.value)
        assert state_of(tmp_path)["step"] == 10 and before.header["step"] == 10
        checkpoint.load_weights(checkpoint.last(tmp_path))
        assert not list(tmp_path.rglob("*.partial"))

    def test_a_full_disk_between_checkpoints_is_reported_too(self, tmp_path, monkeypatch):
        def full(metrics, step, values):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Metrics, "scalars", full)
            with pytest.raises(UserError, match="cannot write the metrics") as error:
                make_trainer(tmp_path).fit()
        assert "No space left" in str(error.value) and "same command continues" in str(error.value)
        assert make_trainer(tmp_path).fit().step == 30

    def test_torchs_own_writer_failing_is_reported_as_a_failed_write(self, tmp_path):
        class Full:
            def write(self, data):
                raise OSError(errno.ENOSPC, "No space left on device")

            def flush(self):
                pass

        with pytest.raises(OSError, match="No space left"):
            checkpoint._write({"step": 1, "x": torch.zeros(100_000)}, Full())

    def test_states_on_disk_keep_their_keys(self, tmp_path):
        make_trainer(tmp_path, steps=10).fit()
        state = state_of(tmp_path)
        assert set(state) == {
            *("format", "step", "seen", "elapsed", "training", "judged", "watch"),
            *("model", "ema", "more_ema", "halflives", "optimizer", "precision", "levels"),
        }
        assert set(state["watch"]) == {
            *("best", "best_step", "lowest", "lowest_step", "last", "since", "risen", "said"),
        }
        assert set(state["training"]) == {
            *("loss", "baseline", "skill", "step_seconds", "windows_per_second", "data_wait"),
            *("gradient_norm", "audio_seconds_per_second"),
        }
        assert state["format"] == checkpoint.STATE_FORMAT == 3

    def test_a_state_of_another_version_is_refused(self, tmp_path):
        torch.save({"step": 1}, tmp_path / "last.state.pt")
        with pytest.raises(UserError, match="another version"):
            checkpoint.load_state(tmp_path / "last.state.pt")


class TestDemo:
    def test_from_step_0_on_and_not_again_when_resumed(self, tmp_path):
        seen = []

        def demo(step, model, tracker):
            assert not model.training and next(model.parameters()).requires_grad is False
            tracker.scalars(step, {"demo/loudness": 0.5})
            seen.append(step)

        make_trainer(tmp_path, steps=10, demo_every=5, demo=demo).fit()
        make_trainer(tmp_path, steps=20, demo_every=8, demo=demo).fit()
        assert seen == [0, 5, 10, 16, 20]
        rows = read_metrics(tmp_path)
        assert [row["step"] for row in rows if "demo/loudness" in row] == seen


class TestFailure:
    def test_nan_in_a_part_names_the_file(self, tmp_path):
        trainer = make_trainer(tmp_path, accumulate=3)
        trainer._train._latents[200:400] = math.nan
        with pytest.raises(UserError, match=r"NaN or infinite at step \d") as error:
            trainer.fit()
        assert "files: 1.wav" in str(error.value)

    def test_a_gradient_that_is_not_finite_spoils_no_checkpoint(self, tmp_path):
        trainer = make_trainer(tmp_path, checkpoint_every=10)
        steps = itertools.count(1)
        # Its loss is finite, and the weights are not until the checkpoint of step 20 is due.
        spoil = {20: math.inf}
        weight = next(trainer._learner.network.parameters())
        weight.register_hook(lambda gradient: gradient + spoil.get(next(steps), 0.0))
        with pytest.raises(
            UserError, match=r"gradient became NaN .* step 20, in 12 of 12"
        ) as error:
            trainer.fit()
        assert ".wav" in str(error.value) and "log-SNR" in str(error.value)
        state = state_of(tmp_path)
        assert state["step"] == 10 and all(w.isfinite().all() for w in state["model"].values())

    def test_of_two_processes_the_one_with_the_loss_is_named(self):
        found = [
            NonFiniteStep(7, "gradient", [0, 1], [0.0, 1.0], 2),
            None,
            NonFiniteStep(7, "loss", [2], [-5.0], 2),
            NonFiniteStep(9, "loss", [3], [9.0], 2),
        ]
        with pytest.raises(UserError, match=r"the loss became .* at step 7, in 1 of 4") as error:
            refuse_not_finite(found, walks(0), ProcessGroup(make_fabric(Launch("cpu"))))
        assert "files: 2.wav" in str(error.value) and "log-SNR -5.0" in str(error.value)

    @pytest.mark.parametrize(
        "failure",
        [
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            MemoryError(),
        ],
        ids=["cuda", "cpu", "python"],
    )
    def test_out_of_memory_suggests_what_to_try(self, failure):
        settings = TrainingConfig(batch=32, accumulate=2)
        device = torch.device("cuda" if "CUDA" in str(failure) else "cpu")
        with (
            pytest.raises(UserError, match="out of memory: 32 windows") as error,
            explained(settings, device),
        ):
            raise failure
        text = str(error.value)
        assert "training.accumulate=4" in text and "training.batch=16" in text
        assert ("bf16-mixed" in text) == (device.type == "cuda")

    @pytest.mark.parametrize("failure", [RuntimeError("shapes do not match"), BrokenPipeError()])
    def test_other_errors_stay_what_they_are(self, failure):
        with (
            pytest.raises(type(failure)) as error,
            explained(TrainingConfig(), torch.device("cpu")),
        ):
            raise failure
        assert error.value is failure

    @pytest.mark.parametrize("how", ["cut", "gone"])
    def test_latents_that_vanish_while_they_are_read_are_an_error(self, tmp_path, how):
        path = tmp_path / "a.npy"
        np.save(path, np.zeros((2, 70_000), np.float32))
        recording = Recording("a.wav", np.load(path, mmap_mode="r"))
        reads = []

        def whiten(z):
            reads.append(z.shape[1])
            if z.shape[1] > 1:
                path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:1000])
            return z

        with pytest.raises(UserError, match=r"a\.wav disappeared"):
            Windows([recording], 8, whiten=whiten)
