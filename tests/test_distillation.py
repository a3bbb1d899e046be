"""`train-diffusion --distill`: targets against the exact flow, and runs from teacher to samples."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from click.testing import CliRunner

import latentdiff
from latentdiff import config, runs
from latentdiff.cli import cli
from latentdiff.commands.evaluate import evaluate
from latentdiff.commands.inspect import inspect
from latentdiff.commands.runs_table import as_table, list_runs
from latentdiff.commands.sample import sample
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.diffusion import exact, noise, samplers
from latentdiff.diffusion.distillation import SOLVER, STUDENT, make_segments
from latentdiff.diffusion.methods import NoiseLevel, SamplerState
from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.diffusion.samplers import integrate, walk
from latentdiff.diffusion.settings import DistillConfig, SamplingConfig, ScheduleConfig
from latentdiff.errors import ConfigError, UserError
from latentdiff.model.distillation import make_task
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.specs import Condition
from latentdiff.tracking import read_metrics
from latentdiff.training import checkpoint
from latentdiff.training.data import Batch

C, T = 2, 6
SCHEDULE = noise.build(ScheduleConfig())
LEVELS = DistillConfig().levels
SMALL = {
    "network": {"name": "tiny", "channels": 16, "kernel": 5},
    "condition": {"kinds": "style"},
    "training": {
        "steps": 40,
        "batch": 16,
        "window": 32,
        "validate_every": 20,
        "validation_windows": 16,
        "demo_samples": 0,
        "calibration_samples": 0,
    },
    "sampling": {"seconds": 1.0},
    "device": "cpu",
}


def project(*layers):
    return config.build(Project, config.merge(SMALL, *layers))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def state(denoise):
    return SamplerState(denoise, Condition(), lambda: None)


def off(x, truth):
    """Relative error of the covariance of samples [B, C, T]."""
    found = torch.cov(x.flatten(1).double().T)
    return float(torch.linalg.norm(found - truth) / torch.linalg.norm(truth))


class TestTargets:
    @pytest.mark.parametrize("make", [exact.gaussian, exact.mixture])
    def test_a_perfect_student_has_the_moments_of_the_data(self, make):
        data = make(C, T)
        segments = make_segments(LEVELS, 4, SCHEDULE)

        def student(z, logsnr, condition):
            (segment,) = [s for s in segments if s.start == pytest.approx(float(logsnr[0]))]
            return segment.target(data, z, condition)

        z = torch.randn(6000, C, T, generator=seeded(1)).double()
        distilled = integrate(state(student), z, LEVELS, STUDENT)
        few = integrate(state(data), z, LEVELS, STUDENT)
        assert off(distilled, data.covariance) < 0.15
        assert off(few, data.covariance) > 2.5 * off(distilled, data.covariance)
        torch.testing.assert_close(
            distilled.flatten(1).mean(0), data.mean, atol=0.1, rtol=0, check_dtype=False
        )

    def test_one_move_ends_where_the_teachers_ode_ends(self):
        data = exact.mixture(C, T)
        first, last = make_segments(LEVELS, 4, SCHEDULE)
        z = torch.randn(8, C, T, generator=seeded(2)).double()
        assert (first.start, last.start) == LEVELS and last.clean and not first.clean
        assert (len(first.logsnrs), len(last.logsnrs)) == (5, 4)
        target = first.target(data, z, Condition())
        moved = walk(state(lambda *_: target), z, LEVELS, STUDENT)
        torch.testing.assert_close(moved, walk(state(data), z, first.logsnrs, SOLVER))
        assert torch.equal(
            last.target(data, moved, Condition()),
            integrate(state(data), moved, last.logsnrs, SOLVER),
        )

    def test_more_calls_come_nearer_to_the_exact_flow(self):
        data = exact.gaussian(C, T)
        z = torch.randn(50, C, T, generator=seeded(3)).double()
        truth = data.flow(z, LEVELS[0], LEVELS[1])
        errors = []
        for calls in (2, 4, 8):
            first = make_segments(LEVELS, calls, SCHEDULE)[0]
            x, here, there = first.target(data, z, Condition()), *map(NoiseLevel.at, LEVELS)
            moved = there.alpha * x + there.sigma * (z - here.alpha * x) / here.sigma
            errors.append(float((moved - truth).abs().max()))
        assert errors[0] > 2 * errors[1] > 4 * errors[2]

    def test_segments_fit_the_schedule(self):
        (whole,) = make_segments((-6.9,), 8, SCHEDULE)
        assert whole.clean and len(whole.logsnrs) == 8
        assert whole.logsnrs[-1] == pytest.approx(samplers.make_logsnrs(SCHEDULE, 8)[-1])
        three = make_segments((-6.9, -3.0, 0.0), 4, SCHEDULE)
        ends = [s.logsnrs[-1] for s in three[:-1]]
        assert ends == pytest.approx([-3.0, 0.0]) and [s.clean for s in three] == [0, 0, 1]
        for levels in ((-11.0, -1.5), (-6.9, 5.0)):
            with pytest.raises(ValueError, match="must lie between"):
                make_segments(levels, 4, SCHEDULE)
        with pytest.raises(ConfigError, match="levels must rise"):
            config.build(DistillConfig, {"levels": [-1.5, -6.9]})


class TestTask:
    @pytest.fixture
    def teacher(self, tmp_path, make_model):
        return Model.load(make_model(tmp_path / "teacher.safetensors"))

    def test_the_loss_is_the_distance_to_the_teachers_samples(self, teacher):
        task = make_task(teacher, DistillConfig())
        windows = torch.randn(10, 2, 32, generator=seeded(1))
        batch = Batch(windows, torch.ones(10, 32).bool(), Condition(), torch.zeros(10).long())
        logsnr, weight = task.draw(10, seeded(2))
        assert sorted(logsnr.tolist()) == pytest.approx(sorted([*LEVELS] * 5))
        assert (weight == 1).all()
        eps = torch.randn(10, 2, 32, generator=seeded(3))
        latents, paired = task.pair(batch, logsnr, eps)
        alpha, sigma = alpha_sigma(logsnr[:, None, None])
        start = torch.where(logsnr[:, None, None] < -6, eps, alpha * windows + sigma * eps)
        torch.testing.assert_close(alpha * latents + sigma * paired, start)
        for row in (0, 1):
            segment = min(task.segments, key=lambda s: abs(s.start - float(logsnr[row])))
            expected = segment.target(teacher.denoiser, start[row : row + 1], Condition())
            torch.testing.assert_close(latents[row : row + 1], expected)
        coupled = batch._replace(latents=latents)
        losses = task.losses(task.baseline, coupled, logsnr, paired)
        single = teacher.denoiser(start, logsnr, Condition())
        torch.testing.assert_close(losses, (single - latents).square().mean((1, 2)))

    def test_every_call_is_trained_whatever_the_batch(self, teacher):
        task = make_task(teacher, DistillConfig(levels=(-7.0, -3.0, 0.0)))
        drawn = torch.cat([task.draw(1, seeded(seed))[0] for seed in range(20)])
        assert set(drawn.tolist()) == {-7.0, -3.0, 0.0}
        assert task.levels(12).tolist() == [0.0, -3.0, -7.0]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, make_store):
    """A small model that was trained on latents with a resonance; do not write into its run."""
    run = Run(tmp_path_factory.mktemp("runs") / "teacher")
    make_store(run.latents, frames=400)
    train_diffusion(run, project({"training": {"steps": 150, "validate_every": 150}}))
    return run


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "fast")


def distill(run, teacher, *layers, **options):
    """As the command line does it, where nothing but the layers is given."""
    return train_diffusion(run, project(*layers), distill=teacher.root, **options)


def latentdiff_command(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def distilled(teacher, tmp_path_factory):
    """A student of the teacher; do not write into its diffusion folder."""
    run = Run(tmp_path_factory.mktemp("runs") / "fast")
    distill(run, teacher, {"training": {"steps": 100, "validate_every": 50}})
    return run


class TestRuns:
    def test_a_student_learns_its_teachers_samples(self, teacher, distilled):
        result = runs.require_done(distilled.diffusion, "diffusion", "train-diffusion").result
        assert result["step"] == 100 and result["validated"] and result["skill"] > 0.3
        rows = read_metrics(distilled.diffusion)
        (last,) = [row for row in rows if row["step"] == 100 and "validation/loss" in row]
        assert {"validation/skill@-1.5", "validation/skill@-6.9"} <= last.keys()
        old, new = (Model.load(checkpoint.find(each.root)) for each in (teacher, distilled))
        assert new.autoguidance == 1 and new.spec.recipe == old.spec.recipe
        assert torch.equal(new.whitening.directions, old.whitening.directions)

        def draw(model, **settings):
            drawn = model.sample(SamplingConfig(**settings), range(16), 64)
            return drawn.latents, drawn.network_calls

        best, _ = draw(old, steps=64)
        (two, calls), (few, same) = draw(new), draw(old, steps=2)
        assert calls == same == 2
        assert (two - best).square().mean() < 0.6 * (few - best).square().mean()

    def test_it_is_sampled_and_evaluated_by_its_own_calls(self, distilled, tmp_path, caplog):
        run, settings = distilled, project()
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            sample(run, settings, n=2, seconds=0.5, name="two")
        assert "euler, 2 steps, autoguidance 1" in caplog.text
        info = runs.require_done(run.samples / "two", "samples", "sample")
        assert info.result["network_calls"] == 2
        skipped = evaluate(run, settings, n=8, seconds=0.5, steps=(4,))
        assert any("the model makes 2 network calls" in line for line in skipped)
        assert not any("held out" in line for line in skipped)
        found = json.loads((run.root / "evaluation" / "evaluation.json").read_text("utf-8"))
        assert found["distilled"].startswith("distilled to 2 calls")
        assert found["held_out"] is None
        assert math.isfinite(found["latents"]["joint"]["scores"]["samples"]["value"])
        generator = latentdiff.load(run.root, device="cpu")
        assert generator.sample_latents(0.5, n=2).shape[0] == 2
        with pytest.raises(UserError, match=r"sampling\.steps=16"):
            generator.sample_latents(0.5, steps=16)

    def test_it_says_what_it_is(self, teacher, distilled, caplog):
        header = checkpoint.load_weights(checkpoint.best(distilled.diffusion)).header
        path = checkpoint.find(teacher.root)
        assert header["format"] == 2 and header["distilled"] == {
            "levels": [-6.9, -1.5],
            "sampler": "euler",
            "teacher": str(path.resolve()),
            "teacher_fingerprint": runs.sha256_file(path),
        }
        assert "format" not in checkpoint.load_weights(path).header or (
            checkpoint.load_weights(path).header["format"] == 1
        )
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            inspect(distilled.root)
        assert "distilled to 2 calls (euler, log-SNR -6.9, -1.5) from" in caplog.text
        table = as_table(list_runs(distilled.root.parent))
        assert any("train-diffusion --distill" in line for line in table)

    def test_a_model_of_one_call(self, run, teacher):
        distill(run, teacher, {"distill": {"levels": [-6.9], "teacher_calls": 6}})
        drawn = Model.load(checkpoint.find(run.root)).sample(SamplingConfig(), [1], 32)
        assert drawn.network_calls == 1

    def test_a_teacher_that_is_a_file_alone(self, run, teacher, tmp_path):
        copied = tmp_path / "copied.safetensors"
        copied.write_bytes(checkpoint.find(teacher.root).read_bytes())
        train_diffusion(run, project(), latents=teacher.latents, distill=copied)
        distilled = Model.load(checkpoint.find(run.root)).spec.distilled
        assert distilled.teacher.path == str(copied.resolve())

    def test_without_held_out_files(self, tmp_path, make_store):
        teacher = Run(tmp_path / "teacher")
        make_store(teacher.latents, held_out=0)
        train_diffusion(teacher, project({"training": {"steps": 5}}))
        distill(Run(tmp_path / "fast"), teacher, {"training": {"steps": 5}})
        assert checkpoint.find(tmp_path / "fast").name == "last.safetensors"


class TestResume:
    def test_a_run_that_was_stopped_is_bit_for_bit_the_run_that_was_not(
        self, tmp_path, teacher, monkeypatch
    ):
        whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
        # A constant rate, which does not know the end.
        constant = {"training": {"decay": 0.0, "warmup_steps": 0, "ema_halflives": [64]}}
        distill(whole, teacher, constant)
        distill(parts, teacher, constant, {"training": {"steps": 20}})
        distill(parts, teacher, constant)
        a, b = (
            torch.load(checkpoint.state(each.diffusion), weights_only=True)
            for each in (whole, parts)
        )
        assert a["step"] == b["step"] == 40
        for group in ("model", "ema"):
            assert all(torch.equal(x, b[group][key]) for key, x in a[group].items())
        losses = [
            [
                row["validation/loss"]
                for row in read_metrics(each.diffusion)
                if "validation/loss" in row
            ]
            for each in (whole, parts)
        ]
        assert losses[0] == losses[1] and len(losses[0]) == 2

    def test_another_teacher_or_none_is_refused(self, run, teacher, tmp_path, make_store):
        distill(run, teacher, {"training": {"steps": 2}})
        copied = tmp_path / "teacher.safetensors"
        weights = checkpoint.load_weights(checkpoint.find(teacher.root))
        checkpoint.save_weights(copied, weights.tensors, {**weights.header, "step": 9})
        with pytest.raises(UserError, match="teacher: another than then"):
            train_diffusion(run, project(), latents=teacher.latents, distill=copied)
        with pytest.raises(UserError, match="made with other settings"):
            train_diffusion(run, project(), latents=teacher.latents)
        with pytest.raises(UserError, match=r"distill\.teacher_calls: 4 -> 8"):
            distill(run, teacher, {"distill": {"teacher_calls": 8}})


class TestSettings:
    def test_the_command_takes_them_from_the_teacher(self, run, teacher):
        words = ("train-diffusion", "--run", run.root, "--distill", teacher.root, "--device", "cpu")
        more = ("training.demo_samples=0", "training.batch=8", "training.log_every=1")
        assert "nothing was written" in latentdiff_command(*words, "--dry-run").output
        assert not run.diffusion.exists()
        done = latentdiff_command(*words, *more, "training.steps=2")
        assert done.exit_code == 0, done.output
        info = runs.read_run(run.diffusion)
        assert info.config["network"]["name"] == "tiny" and info.config["training"]["window"] == 32
        assert info.config["training"]["steps"] == 2 and "distill" in info.config
        assert info.inputs.keys() >= {"teacher", "latents"}
        # The same command again, without the budget, is the same run.
        assert "already done" in latentdiff_command(*words, *more).output
        done = latentdiff_command(*words, *more, "network.channels=32", "training.window=16")
        assert isinstance(done.exception, UserError)
        assert "network.channels: 16 -> 32" in str(done.exception)
        assert "training.window: 32 -> 16" in str(done.exception)

    def test_the_default_budget(self, teacher, tmp_path):
        from latentdiff.model.distillation import STEPS, settings_beneath

        beneath = settings_beneath(Run(tmp_path / "fast"), teacher.root)
        assert beneath["training"] == {"window": 32, "steps": STEPS, "hours": None}

    def test_mistakes_are_refused(self, run, teacher):
        with pytest.raises(UserError, match=r"experiment\.network\.bound: none -> tanh"):
            distill(run, teacher, {"experiment": {"network": {"bound": "tanh"}}})

    def test_settings_of_distill_need_a_teacher(self, run, make_store):
        make_store(run.latents)
        with pytest.raises(UserError, match=r"distill\.teacher_calls: 4 -> 8"):
            train_diffusion(run, project({"distill": {"teacher_calls": 8}}))

    @pytest.mark.parametrize(
        ("settings", "refused"),
        [
            ({"steps": 16}, r"sampling\.steps=16"),
            ({"sampler": "heun"}, r"sampling\.sampler=heun"),
            ({"spacing": "t"}, r"sampling\.spacing=t"),
            ({"guidance": 2.0}, "guidance of distilled models is untested"),
            ({"autoguidance": 1.2}, "with autoguidance"),
        ],
    )
    def test_other_calls_are_refused(self, distilled, run, teacher, settings, refused):
        model = Model.load(checkpoint.find(distilled.root))
        with pytest.raises(UserError, match=refused):
            model.sample(SamplingConfig(**settings), [1], 32)
        with pytest.raises(UserError, match=refused):
            distill(run, teacher, {"sampling": settings})
        model.sample(SamplingConfig(steps=2, sampler="euler", autoguidance=1.0), [1], 32)


class TestRefusals:
    def test_no_teacher(self, run, tmp_path):
        for path in (tmp_path / "nothing", tmp_path / "nothing.safetensors"):
            with pytest.raises(UserError, match="no trained model to distill"):
                distill(run, Run(path))
        done = latentdiff_command("train-diffusion", "--run", run.root, "--distill", tmp_path)
        assert "no trained model to distill" in str(done.exception)

    def test_a_student_cannot_replace_its_teacher(self, teacher):
        with pytest.raises(UserError, match="holds the model to distill"):
            distill(teacher, teacher, overwrite=True)
        assert checkpoint.find(teacher.root).exists()

    def test_other_latents(self, run, teacher, tmp_path, make_store):
        other = make_store(tmp_path / "other", seed=1)
        with pytest.raises(UserError, match="are not those that"):
            distill(run, teacher, latents=other)

    def test_levels_outside_of_the_schedule(self, run, teacher):
        with pytest.raises(UserError, match="do not fit the teacher's schedule"):
            distill(run, teacher, {"distill": {"levels": [-6.9, 7.0]}})

    def test_a_distilled_teacher(self, run, distilled):
        with pytest.raises(UserError, match="cannot be distilled") as error:
            distill(run, distilled)
        assert "distilled to 2 calls" in error.value.why

    def test_teachers_of_other_kinds(self, run, tmp_path, make_store):
        make_store(tmp_path / "latents", mel=True)
        for number, (layer, why) in enumerate(
            [
                ({"experiment": {"network": {"bound": "tanh"}}}, "deliberate mistakes"),
                ({"diffusion": {"parametrisation": "regression"}}, "regression"),
            ]
        ):
            wrong = Run(tmp_path / f"teacher{number}")
            settings = config.merge(
                {"condition": {"kinds": "mel"}, "training": {"steps": 2}}, layer
            )
            train_diffusion(wrong, project(settings), latents=tmp_path / "latents")
            with pytest.raises(UserError, match="cannot be distilled") as error:
                distill(run, wrong, {k: v for k, v in settings.items() if k != "experiment"})
            assert why in error.value.why

    def test_a_distilled_model_has_no_losses_to_diagnose(self, distilled):
        with pytest.raises(UserError, match="no losses by noise level"):
            Model.load(checkpoint.find(distilled.root)).task()
