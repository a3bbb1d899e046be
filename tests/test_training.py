"""The trainer: windows, checkpoints, averages, validation, resume, and the truth about skill."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import ConditionDropout, Denoiser
from latentdiff.diffusion.levels import build_noise_level_sampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.settings import DiffusionConfig, LevelsConfig, ScheduleConfig
from latentdiff.errors import UserError
from latentdiff.interrupt import StopRequest
from latentdiff.networks.build import build
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition, ConditionSize
from latentdiff.tracking import read_metrics
from latentdiff.training import checkpoint, verdict
from latentdiff.training.budget import Budget
from latentdiff.training.data import Batch, FeatureMap, Recording, Windows, generator_for
from latentdiff.training.ema import Ema
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import Task
from latentdiff.training.trainer import Trainer
from latentdiff.training.validation import Validator, exchange

SMAPS = Path("/proc/self/smaps")


def counting(frames, start=0):
    """[2, T]: the frame's number, and its negative."""
    row = np.arange(start, start + frames, dtype=np.float32)
    return np.stack([row, -row])


def windows(lengths, window, **options):
    recordings, start = [], 0
    for i, frames in enumerate(lengths):
        recordings.append(Recording(f"file{i}", counting(frames, start)))
        start += frames
    return Windows(recordings, window, whiten=lambda z: z, **options)


class TestWindows:
    def test_windows_are_consecutive_frames_of_one_file(self):
        batch = windows([20, 9, 50], 8).draw(500, generator_for(0))
        rows = batch.latents[:, 0]
        assert torch.equal(rows - rows[:, :1], torch.arange(8.0).expand(500, 8))
        first = torch.tensor([0, 20, 29])[batch.files]
        last = torch.tensor([20, 29, 79])[batch.files] - 1
        assert (rows[:, 0] >= first).all() and (rows[:, -1] <= last).all()
        assert batch.mask.all()

    def test_every_window_is_drawn_equally_often(self):
        data = windows([10, 17], 8)
        assert data.count == 3 + 10
        drawn = data.draw(13_000, generator_for(1)).latents[:, 0, 0].long()
        counts = torch.bincount(drawn)[drawn.unique()]
        assert len(counts) == 13 and counts.min() > 850 and counts.max() < 1150

    def test_a_short_file_is_padded_with_its_last_frame_and_masked(self):
        batch = windows([5], 8).draw(2, generator_for(0))
        assert batch.latents[0, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
        assert batch.mask[0].tolist() == [True] * 5 + [False] * 3

    def test_features_are_cut_at_the_same_frames(self):
        z = counting(40)
        recordings = [Recording("a", z, features={"mel": z[:1] * 10})]
        maps = {"mel": FeatureMap(1, lambda f: f + 1)}
        data = Windows(recordings, 8, whiten=lambda z: z, features=maps)
        batch = data.draw(20, generator_for(3))
        assert torch.equal(batch.condition.values["mel"][:, 0], batch.latents[:, 0] * 10 + 1)

    def test_labels_follow_their_files(self):
        recordings = [
            Recording(k, counting(20), categories={"label": i}) for i, k in enumerate("abc")
        ]
        batch = Windows(recordings, 8, whiten=lambda z: z).draw(30, generator_for(0))
        assert torch.equal(batch.condition.values["label"], batch.files)

    def test_whitening_is_applied(self):
        data = Windows([Recording("a", counting(30))], 8, whiten=lambda z: z[:1] * 2)
        assert data.channels == 1
        batch = data.draw(4, generator_for(0))
        assert (batch.latents % 2 == 0).all()

    def test_on_disk_equals_in_memory_and_leaves_nothing_behind(self, tmp_path):
        in_memory = windows([100, 3, 50], 16)
        on_disk = windows([100, 3, 50], 16, memory_gb=0, scratch=tmp_path)
        a, b = (data.draw(64, generator_for(5)) for data in (in_memory, on_disk))
        assert torch.equal(a.latents, b.latents) and torch.equal(a.mask, b.mask)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(not SMAPS.exists(), reason="asks Linux what is resident")
    def test_files_that_were_read_are_not_kept_in_memory(self, tmp_path):
        path = tmp_path / "a.npy"
        np.save(path, counting(200_000))
        recording = Recording("a", np.load(path, mmap_mode="r"))
        data = Windows([recording], 8, whiten=lambda z: z)
        found = SMAPS.read_text().partition(str(path))[2]
        assert int(found.partition("\nRss:")[2].split()[0]) == 0
        # What was unloaded is read again where it is asked for.
        assert np.array_equal(recording.latents, counting(200_000))
        assert data.frames == 200_000

    def test_spread_covers_all_files_without_overlap(self):
        batch = windows([20, 9, 50, 3], 8).spread(100)
        frames = batch.latents[:, 0][batch.mask]
        assert len(frames) == len(frames.unique()) or batch.latents.shape[0] <= 11
        assert set(batch.files.tolist()) == {0, 1, 2, 3}
        assert len(windows([20, 9, 50, 3], 8).spread(4).files) == 4

    def test_same_seed_same_batch(self):
        data = windows([100], 8)
        a, b, c = (data.draw(9, generator_for(0, step)).latents for step in (7, 7, 8))
        assert torch.equal(a, b) and not torch.equal(a, c)

    def test_nan_names_the_file(self):
        bad = counting(20)
        bad[1, 13] = np.nan
        recordings = [Recording("good.wav", counting(20)), Recording("bad.wav", bad)]
        with pytest.raises(UserError, match=r"latents of bad\.wav hold NaN"):
            Windows(recordings, 8, whiten=lambda z: z)

    def test_features_of_another_length_name_the_file(self):
        recordings = [Recording("a.wav", counting(20), features={"mel": counting(19)})]
        with pytest.raises(UserError, match=r"a\.wav"):
            Windows(recordings, 8, whiten=lambda z: z, features={"mel": FeatureMap(1, lambda f: f)})

    def test_resized_windows_share_the_frames(self):
        data = windows([20, 9, 50], 8)
        batch = data.resized(16).draw(50, generator_for(0))
        assert batch.latents.shape == (50, 2, 16) and data.window == 8
        assert data.resized(16).count == 5 + 1 + 35 and data.count == 13 + 2 + 43


class TestSchedules:
    def test_learning_rate_warms_up_stays_and_falls_to_zero(self):
        settings = TrainingConfig(steps=1000, warmup_steps=100, decay=0.5, learning_rate=1e-3)
        rates = [Budget(settings).learning_rate(step) for step in range(1, 1001)]
        assert rates[0] == pytest.approx(1e-5) and rates[99] == pytest.approx(1e-3)
        assert all(rate == pytest.approx(1e-3) for rate in rates[99:500])
        assert rates[750] == pytest.approx(5e-4, rel=0.01)
        assert 0 < rates[-1] < 1e-8
        assert all(a >= b for a, b in itertools.pairwise(rates[100:]))

    def test_the_tail_follows_the_budget(self):
        short, long = (Budget(TrainingConfig(steps=n, warmup_steps=0)) for n in (100, 200))
        assert long.learning_rate(100) == pytest.approx(1e-3)
        assert short.learning_rate(100) < 1e-6

    def test_hours_schedule_as_steps_do(self):
        budget = Budget(TrainingConfig(steps=None, hours=1, decay=0.5))
        assert budget.learning_rate(5000, 0.0) == pytest.approx(1e-3)
        assert budget.learning_rate(5000, 1800.0) == pytest.approx(1e-3)
        assert budget.learning_rate(5000, 2700.0) == pytest.approx(5e-4)
        assert budget.learning_rate(5000, 3600.0) < 1e-8
        # Warm-up: 2 % of the hour, or 1000 steps.
        assert budget.learning_rate(1, 36.0) == pytest.approx(5e-4)
        assert not budget.over(10**9, 3599.0) and budget.over(1, 3600.0)

    def test_whichever_ends_first_decides(self):
        budget = Budget(TrainingConfig(steps=1000, hours=1))
        assert budget.progress(500, 360.0) == 0.5 and budget.progress(100, 2700.0) == 0.75
        assert budget.over(1000, 0.0) and budget.over(1, 3600.0)

    def test_intervals_of_a_timed_run_follow_its_pace_and_divide_each_other(self):
        budget = Budget(TrainingConfig(steps=None, hours=1))
        # 10 steps a second: 36,000 in all, a fortieth of them is 900.
        assert budget.validation_interval(6000, 600.0) == 800
        assert budget.validation_interval(60_000, 600.0) == 1600
        assert budget.validation_interval(6, 600.0) == 100
        assert budget.halflife(6000, 6000 * 32, 600.0) == pytest.approx(0.02 * 36_000 * 32)
        steps = Budget(TrainingConfig(steps=20_000))
        assert steps.validation_interval(7, 1e9) == 500
        assert steps.halflife(7, 7 * 32, 1e9) == pytest.approx(0.02 * 20_000 * 32)

    def test_a_budget_is_asked_for(self):
        with pytest.raises(ValueError, match="steps, or hours"):
            TrainingConfig(steps=None)

    def test_ema_halves_the_past_after_its_halflife(self):
        network = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(network.weight)
        ema = Ema(network, halflife=80)
        torch.nn.init.ones_(network.weight)
        for step in range(10):
            ema.update(network, batch=8, seen=1_000_000 + 8 * step)
        assert ema.module.weight.item() == pytest.approx(0.5)

    def test_ema_is_young_at_the_start(self):
        network = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(network.weight)
        ema = Ema(network, halflife=1e9)
        torch.nn.init.ones_(network.weight)
        ema.update(network, batch=8, seen=8)
        assert ema.module.weight.item() > 0.99


class TestCheckpoint:
    tensors = {"network.w": torch.arange(6.0).view(2, 3), "whitening.mean": torch.ones(2)}

    def test_round_trip(self, tmp_path):
        path = tmp_path / "checkpoints" / "last.safetensors"
        checkpoint.save_weights(path, self.tensors, {"step": 3, "label": "Schöne"})
        weights = checkpoint.load_weights(path)
        assert weights.header["step"] == 3 and weights.header["label"] == "Schöne"
        assert torch.equal(weights.group("network")["w"], self.tensors["network.w"])
        assert list(weights.group("whitening")) == ["mean"]

    def test_pack_and_group_are_inverse(self, tmp_path):
        path = tmp_path / "x.safetensors"
        layer = torch.nn.Linear(3, 2)
        checkpoint.save_weights(path, checkpoint.pack(network=layer.state_dict()), {})
        layer.load_state_dict(checkpoint.load_weights(path).group("network"))

    @pytest.mark.parametrize("kept", [0, 5, 100, -1])
    def test_truncated_weights_are_named(self, tmp_path, kept):
        path = tmp_path / "cut.safetensors"
        checkpoint.save_weights(path, self.tensors, {})
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"cut\.safetensors is damaged"):
            checkpoint.load_weights(path)

    @pytest.mark.parametrize("kept", [0, 5, 300, -1])
    def test_truncated_state_is_named(self, tmp_path, kept):
        path = tmp_path / "last.state.pt"
        checkpoint.save_state(path, {"step": 1, **self.tensors})
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"last\.state\.pt is damaged"):
            checkpoint.load_state(path)

    def test_a_state_that_would_run_code_is_refused(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "pwned"), "w"))

        torch.save({"step": Evil()}, tmp_path / "last.state.pt")
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load_state(tmp_path / "last.state.pt")
        assert not (tmp_path / "pwned").exists()

    def test_strangers_weights_are_refused(self, tmp_path):
        from safetensors.torch import save_file

        save_file(self.tensors, tmp_path / "other.safetensors")
        with pytest.raises(UserError, match="not a diffusion checkpoint"):
            checkpoint.load_weights(tmp_path / "other.safetensors")

    def test_find_prefers_the_best(self, tmp_path):
        with pytest.raises(UserError, match="no diffusion checkpoint"):
            checkpoint.find(tmp_path)
        stage = tmp_path / "diffusion"
        checkpoint.save_weights(checkpoint.last(stage), self.tensors, {})
        assert checkpoint.find(tmp_path) == checkpoint.last(stage)
        checkpoint.save_weights(checkpoint.best(stage), self.tensors, {})
        assert checkpoint.find(tmp_path) == checkpoint.find(stage) == checkpoint.best(stage)


TASK = Task(Objective(), noise.build(ScheduleConfig()))


def resonance(rng, frames):
    """[2, T] of an AR(2) process with a resonance, of unit variance."""
    drive = rng.standard_normal((2, frames + 200))
    z = np.zeros_like(drive)
    for t in range(2, frames + 200):
        z[:, t] = 1.815 * z[:, t - 1] - 0.9025 * z[:, t - 2] + drive[:, t]
    return z[:, 200:] / 8.4


def data(seed, files, white=False, conditioned=False, window=32):
    """Windows of files of 300 frames; the condition, where there is one, is the first channel."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((2, 300)) if white else resonance(rng, 300) for _ in range(files)]
    arrays = [z.astype(np.float32) for z in arrays]
    recordings = [
        Recording(f"{i}.wav", z, features={"mel": z[:1]} if conditioned else {})
        for i, z in enumerate(arrays)
    ]
    maps = {"mel": FeatureMap(1, lambda f: f)} if conditioned else {}
    return Windows(recordings, window, whiten=lambda z: z, features=maps)


def make_trainer(
    directory,
    *,
    seed=0,
    white=False,
    conditioned=False,
    dropout=0.0,
    levels="schedule",
    **settings,
):
    config = {"steps": 100, "batch": 16, "window": 32, "learning_rate": 3e-3, "log_every": 10}
    torch.manual_seed(seed)
    sizes = {"mel": ConditionSize(features=1)} if conditioned else {}
    network = build(NetworkConfig(name="tiny", channels=32, kernel=5), 2, sizes)
    directory.mkdir(parents=True, exist_ok=True)
    return Trainer(
        Denoiser(network),
        Task(
            TASK.objective,
            TASK.schedule,
            build_noise_level_sampler(LevelsConfig(name=levels), TASK.schedule),
        ),
        data(2 * seed, 10, white, conditioned),
        data(2 * seed + 1, 4, white, conditioned),
        TrainingConfig(**(config | settings)),
        directory,
        condition_dropout=ConditionDropout(dropout),
        seed=seed,
        device="cpu",
    )


def final_state(directory):
    return torch.load(checkpoint.state(directory), weights_only=True)


def assert_same(a, b, path=""):
    """Equal bit for bit, all the way down."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif not path.startswith(("/training/", "/elapsed")):  # the clock's
        assert a == b, path


class TestSkill:
    @pytest.mark.parametrize("seed", range(2))
    def test_white_noise_cannot_be_learned(self, tmp_path, seed):
        outcome = make_trainer(tmp_path, seed=seed, white=True).fit()
        assert abs(outcome.validation.skill) < 0.02
        assert abs(outcome.training.skill) < 0.02

    @pytest.mark.parametrize("seed", range(2))
    def test_a_resonance_can(self, tmp_path, seed):
        outcome = make_trainer(tmp_path, seed=seed).fit()
        assert outcome.best.skill > 0.3
        # Nothing is to be known where hardly any noise is, and everything where hardly any sound.
        middle = outcome.best.metrics()
        assert max(v for k, v in middle.items() if k.startswith("skill@")) > outcome.best.skill

    def test_informative_conditions_raise_the_loss_when_exchanged(self, tmp_path):
        outcome = make_trainer(tmp_path, conditioned=True, dropout=0.1).fit()
        assert outcome.best.conditioning_gain > 1.5
        assert "ignored" not in verdict.conditioning(outcome.best.conditioning_gain)
        assert "ignored" in verdict.conditioning(0.0)

    def test_baseline_losses_are_those_of_the_process(self):
        known = TASK.baseline_losses(data(0, 40))
        assert known.variance == pytest.approx(1.0, abs=1e-4)
        # Wiener filter of the AR(2) spectrum, integrated over frequencies and levels.
        frequency = np.exp(-2j * np.pi * np.arange(4096) / 4096)
        power = 1 / np.abs(1 - 1.815 * frequency + 0.9025 * frequency**2) ** 2
        power = torch.from_numpy(power / power.mean())
        snr = TASK.levels(64).double().exp()[:, None]
        error = (power / (1 + snr * power)).mean(1) * (1 + snr[:, 0])
        assert known.spectrum == pytest.approx(error.mean().item(), abs=0.04)
        assert TASK.baseline_losses(data(0, 40, white=True)).learnable < 0.01

    def test_the_spectrum_of_a_large_store_is_estimated_from_a_part_of_it(self, monkeypatch):
        files = data(0, 40)
        known = TASK.baseline_losses(files)
        taken = []
        spread = Windows.spread
        monkeypatch.setattr("latentdiff.training.task.MOST_VALUES", 40 * 128 * 2)
        monkeypatch.setattr(
            Windows, "spread", lambda *args: taken.append(spread(*args)) or taken[-1]
        )
        assert TASK.baseline_losses(files).spectrum == pytest.approx(known.spectrum, abs=0.03)
        assert [len(batch.files) for batch in taken] == [32, 32, 32]


class TestValidation:
    def test_baselines_of_other_variances_are_those_of_the_denoiser(self):
        task = Task(Objective("eps"), TASK.schedule, variance=torch.tensor([0.2, 1.8]))
        known = task.baseline_losses(data(0, 10, white=True))
        z = torch.randn(400, 2, 32, generator=generator_for(1)) * task.variance.sqrt()[:, None]
        noise_of = torch.randn(z.shape, generator=generator_for(2))
        batch = Batch(z, torch.ones(400, 32), Condition(), torch.zeros(400))
        losses = [
            task.losses(task.knows_variance, batch, level.expand(400), noise_of).mean()
            for level in task.levels(64)
        ]
        assert torch.stack(losses).mean().item() == pytest.approx(known.variance, rel=0.01)
        assert known.spectrum == pytest.approx(known.variance, rel=0.02)

    def test_the_baseline_denoiser_has_no_skill_at_any_level(self):
        validator = Validator(data(0, 4).spread(20), TASK, levels=10, batch=7)
        result = validator.measure(TASK.knows_variance, torch.device("cpu"))
        assert result.losses == result.baselines and result.skill == 0
        assert len(result.losses) == 10
        assert result.logsnr == sorted(result.logsnr, reverse=True)

    def test_a_regression_is_measured_once(self):
        regression = DiffusionConfig(parametrisation="regression")
        task = Task(Objective.from_config(regression), noise.schedule_of(regression))
        windows = data(0, 4, conditioned=True).spread(20)
        calls = []

        def follow(z_t, logsnr, condition):
            calls.append(len(logsnr))
            return condition.values["mel"].expand(z_t.shape)

        result = Validator(windows, task, 12, 16, thin=4).measure(
            follow, torch.device("cpu"), raw=follow
        )
        # Twice more for the exchanged and the shifted conditions, and once for the raw weights.
        assert len(result.losses) == 1 and sum(calls) == 4 * 20
        assert result.raw == pytest.approx(result.loss)
        error = (windows.latents - windows.condition.values["mel"]).square().mean()
        assert result.loss == pytest.approx(error.item(), rel=1e-5)

    def test_it_does_not_depend_on_the_batch_nor_on_what_was_drawn_before(self):
        windows = data(0, 4).spread(20)
        results = [
            Validator(windows, TASK, 10, batch).measure(TASK.knows_variance, torch.device("cpu"))
            for batch in (3, 20)
        ]
        assert results[0].losses == pytest.approx(results[1].losses, rel=1e-5)

    def test_exchanged_conditions_are_all_anothers(self):
        windows = data(0, 4, conditioned=True).spread(21)
        wrong = exchange(windows, ["mel"])
        same = (wrong.condition.values["mel"] == windows.condition.values["mel"]).all(dim=(1, 2))
        assert not same.any() and torch.equal(wrong.latents, windows.latents)
        assert exchange(windows.pick(slice(0, 1)), ["mel"]) is None
        assert exchange(data(0, 4).spread(20), []) is None


class TestResume:
    @pytest.mark.parametrize(("stop", "levels"), [(25, "schedule"), (40, "adaptive")])
    def test_a_stopped_run_equals_an_uninterrupted_one_bit_for_bit(
        self, tmp_path, monkeypatch, stop, levels
    ):
        options = {"conditioned": True, "dropout": 0.2, "steps": 60, "checkpoint_every": 40}
        options["levels"] = levels
        make_trainer(tmp_path / "whole", **options).fit()
        trainer = make_trainer(tmp_path / "parts", **options)
        update = trainer._update

        def interrupted_update(draw):
            update(draw)
            if trainer._progress.step == stop:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(trainer, "_update", interrupted_update)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
        assert final_state(tmp_path / "parts")["step"] == stop
        make_trainer(tmp_path / "parts", **options).fit()
        assert_same(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))
        steps = [row["step"] for row in read_metrics(tmp_path / "parts") if "loss" in row]
        assert steps == sorted({10, 20, 30, 40, 50, 60, stop})

    def test_a_kill_between_weights_and_state_loses_nothing(self, tmp_path, monkeypatch):
        options = {"steps": 40, "checkpoint_every": 10, "validate_every": 20}
        make_trainer(tmp_path / "whole", **options).fit()
        save = checkpoint.save_state
        calls = []

        def dying_save(path, values):
            calls.append(values["step"])
            if values["step"] == 30:
                raise SystemExit("killed")
            save(path, values)

        monkeypatch.setattr(checkpoint, "save_state", dying_save)
        with pytest.raises(SystemExit):
            make_trainer(tmp_path / "parts", **options).fit()
        assert calls == [10, 20, 30]
        monkeypatch.setattr(checkpoint, "save_state", save)
        make_trainer(tmp_path / "parts", **options).fit()
        assert_same(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))
        steps = [row["step"] for row in read_metrics(tmp_path / "parts") if "loss" in row]
        assert steps == [10, 20, 30, 40]

    def test_a_finished_run_returns_its_outcome_again(self, tmp_path):
        first = make_trainer(tmp_path, steps=20).fit()
        again = make_trainer(tmp_path, steps=20).fit()
        assert again == first

    def test_another_network_is_refused(self, tmp_path):
        make_trainer(tmp_path, steps=10).fit()
        with pytest.raises(UserError, match="belongs to another network"):
            make_trainer(tmp_path, steps=20, conditioned=True).fit()


class TestFailure:
    def test_nan_names_files_and_levels_and_keeps_the_last_good_state(self, tmp_path):
        make_trainer(tmp_path, steps=20).fit()
        before = final_state(tmp_path)
        trainer = make_trainer(tmp_path, steps=40)
        # File 3 is frames 900 to 1200 of the training set.
        trainer._train._latents[900:1200] = torch.nan
        with pytest.raises(UserError, match=r"NaN or infinite at step 2\d.* windows") as error:
            trainer.fit()
        assert "files: 3.wav" in str(error.value) and "log-SNR" in str(error.value)
        assert_same(before, final_state(tmp_path))

    def test_exploded_weights_are_not_saved(self, tmp_path):
        trainer = make_trainer(tmp_path, steps=40, learning_rate=1e30, checkpoint_every=5)
        with pytest.raises(UserError, match=r"training\.learning_rate"):
            trainer.fit()
        state = checkpoint.load_state(checkpoint.state(tmp_path))
        if state is not None:
            assert all(torch.isfinite(w).all() for w in state["model"].values())

    def test_half_precision_on_a_cpu_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="needs a GPU"):
            make_trainer(tmp_path, precision="16-mixed")

    def test_bf16_trains_too(self, tmp_path):
        outcome = make_trainer(tmp_path, precision="bf16-mixed", steps=50).fit()
        assert outcome.best.skill > 0.1
        weights = checkpoint.load_weights(checkpoint.best(tmp_path))
        assert all(w.dtype == torch.float32 for w in weights.group("network").values())


class TestInterrupt:
    def test_the_first_signal_waits_and_the_second_does_not(self):
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is before
