"""`diagnose sampler`: correct samplers pass on any schedule, broken ones are named."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
from dataclasses import replace

import pytest
import torch

from latentdiff import cli, config
from latentdiff.cli import base
from latentdiff.diagnose import report
from latentdiff.diagnose.sampler import measure as worker
from latentdiff.diagnose.sampler import report as sampler_report
from latentdiff.diagnose.sampler.measure import sampler
from latentdiff.diagnose.sampler.results import ConversionRow
from latentdiff.diffusion import denoiser, exact, noise, samplers
from latentdiff.diffusion.methods import METHODS, SamplerState
from latentdiff.diffusion.schedules import SCHEDULES
from latentdiff.diffusion.settings import SamplingConfig, ScheduleConfig
from latentdiff.errors import UserError
from latentdiff.evaluation import oracle
from latentdiff.evaluation.oracle import VARIANTS, OracleProblem, SamplerVariant
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.specs import Condition

OWN = {"name": "betas", "beta_start": 1e-5, "beta_end": 0.0085}
"""A schedule of the notebook that ends before pure noise."""


def project(**sections):
    return config.build(Project, sections)


def problem(schedule=None, latents=exact.gaussian):
    return OracleProblem(latents(), noise.build(config.build(ScheduleConfig, schedule or {})))


@pytest.fixture
def few(monkeypatch):
    """Fewer steps and samples: seconds become tenths."""
    for module in (worker, sampler_report):
        monkeypatch.setattr(module, "STEPS", (1, 10, 50))
    monkeypatch.setattr(worker, "FEW", (10,))
    monkeypatch.setattr(oracle, "ORDER_STEPS", (40, 80))
    monkeypatch.setattr(worker, "BATCH", {"Gaussian": 24, "mixture": 64})


@pytest.fixture
def logged(caplog):
    """Everything that was logged so far."""
    caplog.set_level(logging.INFO, "latentdiff")
    return lambda: caplog.text


def test_every_method_is_tested_and_draws_noise_only_if_it_declares_it():
    assert {variant.sampler for variant in VARIANTS.values()} == set(METHODS)
    z = torch.zeros(1, 2, 4)
    for name, variant in VARIANTS.items():
        drawn = []
        state = SamplerState(exact.gaussian(), Condition(), lambda: drawn.append(1) or z)  # noqa: B023
        state.options = variant.options
        samplers.integrate(state, z, [-4.0, 0.0, 4.0], variant.sampler)
        assert bool(drawn) != variant.ode, name


@pytest.mark.parametrize("latents", [exact.gaussian, exact.mixture])
@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "cosine"},
        {"name": "laplace"},
        {"name": "diffwave"},
        OWN,
        {"name": "betas", "beta_end": 1.0, "beta_steps": 10},
    ],
    ids=lambda s: s["name"] + str(s.get("beta_end", "")),
)
def test_orders_are_met_on_any_schedule(schedule, latents):
    here = problem(schedule, latents)
    for case in VARIANTS.values():
        if here.linear or case.ode:
            order, error = here.order(case)
            assert order == pytest.approx(case.order, abs=oracle.ORDER_TOLERANCE / 2)
            assert error < 0.1


def test_moments_of_few_gaussian_samples_are_those_of_infinitely_many():
    """DDPM on one variance S: its own recursion, beside 24 samples."""
    here = problem({"logsnr_min": -6.0, "logsnr_max": 4.0})
    here = OracleProblem(here.exact, here.schedule, batch=24)
    samples = here.run(VARIANTS["ddpm"], 7)
    variance = here.exact.variances[:, 0]
    points = samplers.make_logsnrs(here.schedule, 7, here.spacing)
    alpha, sigma = noise.alpha_sigma(torch.tensor(points[0]).double())
    spread = alpha**2 * variance + sigma**2
    for first, second in itertools.pairwise(points):
        (a, b), (s, r) = noise.alpha_sigma(torch.tensor([first, second], dtype=torch.float64))
        beta = s**2 - (a / b) ** 2 * r**2
        gain = a * variance / (a**2 * variance + s**2)
        spread = spread * ((a / b * r**2 + b * beta * gain) / s**2) ** 2 + beta * r**2 / s**2
        last = b * variance / (b**2 * variance + r**2)
    found = samples.flatten(1) @ here.exact.basis
    torch.testing.assert_close(
        torch.cov(found.T, correction=0), torch.diag(last**2 * spread), atol=2e-6, rtol=1e-5
    )


def test_fresh_noise_is_uncorrelated_with_what_was_seen():
    z = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    source = oracle.NoiseBalancer(lambda z, logsnr, condition: z, balanced=True)
    source(z, torch.zeros(40), Condition())
    fresh = source.noise().flatten(1)
    torch.testing.assert_close(fresh.T @ fresh / 40, torch.eye(6).double())
    torch.testing.assert_close(fresh.T @ z.flatten(1), torch.zeros(6, 6).double())
    torch.testing.assert_close(fresh.mean(0), torch.zeros(6).double())


def test_pure_noise_costs_what_arithmetic_predicts():
    """From a start of unit variance the exact flow takes S to S / (alpha^2 S + sigma^2)."""
    here = problem({"name": "diffwave"})
    variance = here.exact.variances[:, 0]
    alpha = 1 / here.schedule.gain
    factor = 1 / (alpha**2 * variance + 1 - alpha**2)
    ends = here.ends_of(here.noise)
    level = 10 * math.log10(float((variance * factor).sum() / variance.sum()))
    assert here.level_db(ends) == pytest.approx(level, abs=0.01)
    covariance = float((variance * (factor - 1)).norm() / variance.norm())
    assert here.errors_from_latents(ends).covariance == pytest.approx(covariance, rel=0.01)
    assert covariance > 0.3
    good = problem({"name": "cosine"})
    assert good.errors_from_latents(good.ends_of(good.noise)).covariance < 1e-3


def test_the_configured_sampler_is_judged_with_its_options():
    ddim = config.build(SamplingConfig, {"sampler": "ddim", "eta": 0.5})
    assert not SamplerVariant.of(ddim).ode and SamplerVariant.of(ddim).order == 1
    heun = config.build(SamplingConfig, {"sampler": "heun", "eta": 0.5})
    assert SamplerVariant.of(heun).ode and SamplerVariant.of(heun).order == 2


def test_right_samplers_pass_and_files_are_left(few, logged, tmp_path):
    own = project(diffusion={"schedule": OWN}, sampling={"steps": 50})
    assert sampler(own, out=tmp_path / "out")
    text = logged()
    assert re.search(r"all \d+ orders of convergence are met", text)
    assert "diagnose training" in text
    assert "betas 1e-05..0.0085 (1000): log-SNR -4.3 to 11.5" in text
    assert "12% of the signal is left" in text
    results = json.loads((tmp_path / "out" / "sampler.json").read_text())
    assert not results["broken"]
    assert {row["schedule"] for row in results["conversions"]} == {
        "betas 1e-05..0.0085 (1000)",
        "cosine",
        "linear-ddpm",
    }
    assert {row["output"] for row in results["conversions"]} == set(oracle.OUTPUTS)
    assert (tmp_path / "out" / "sampler.txt").read_text().strip() in text
    assert (tmp_path / "out" / "sampler.png").read_bytes().startswith(b"\x89PNG")
    # Read back instead of measured again, with the same verdict.
    assert sampler(own, out=tmp_path / "out")
    with pytest.raises(UserError, match="made with other settings or inputs"):
        sampler(project(), out=tmp_path / "out")


def test_a_sampler_that_misses_its_order_is_named(few, logged, monkeypatch):
    broken = replace(METHODS["heun"], step=METHODS["euler"].step)
    monkeypatch.setitem(METHODS, "heun", broken)
    assert not sampler(project())
    assert "THE SAMPLING IS BROKEN" in logged()
    assert "heun on schedule cosine, Gaussian: its error falls with order 0.9" in logged()


def test_noise_of_the_wrong_strength_is_found(few, logged, monkeypatch):
    ddpm = METHODS["ddpm"]

    def loud(state, z, here, there):
        return ddpm(state, z, here, there) + 0.1 * state.noise_sampler()

    monkeypatch.setitem(METHODS, "ddpm", replace(ddpm, step=loud))
    assert not sampler(project())
    assert "ddpm on schedule" in logged()


def test_an_output_converted_wrongly_is_named(few, logged, monkeypatch):
    right = denoiser.affine

    def wrong(parametrisation, logsnr):
        # x_t over the latents' deviation, as in N108.
        a, b = right(parametrisation, logsnr)
        return (1.02 * a, b) if parametrisation == "eps" else (a, b)

    monkeypatch.setattr(denoiser, "affine", wrong)
    assert not sampler(project())
    assert "a network that predicts eps changes" in logged()
    assert "predicts v changes" not in logged()


def test_nan_is_broken():
    row = ConversionRow("cosine", "Gaussian", "ddpm", "v", 1, float("nan"))
    assert len(sampler_report.broken([], [row])) == 1


LAPLACE_BY_T = {
    "diffusion": {"schedule": {"name": "laplace"}},
    "sampling": {"spacing": "t", "steps": 32},
}
"""Steep where steps are few."""


def test_too_few_steps_and_a_bad_spacing_are_named(few, logged, monkeypatch):
    for module in (worker, sampler_report):
        monkeypatch.setattr(module, "STEPS", (1, 10, 1000))
    assert sampler(project(**LAPLACE_BY_T))
    assert "sampling.steps=32 is too few for dpmpp-2m here: 1000 steps" in logged()
    assert "sampling.spacing=t: off by only 0.0032 with logistic" in logged()


def test_defaults_are_not_blamed(few, logged):
    """The default spacing errs more than even log-SNR spacing here; it is chosen for music."""
    assert sampler(project())
    assert "perfect samples are off by 0.033: fine." in logged()
    assert "sampling.spacing" not in logged()


def test_more_steps_are_advised_only_where_they_help(few, logged):
    """50, the most that is tried here, is still too few."""
    assert sampler(project(**LAPLACE_BY_T))
    assert "too few" not in logged()
    assert "sampling.spacing=t" in logged()


def test_everything_is_every_schedule_on_both_latents():
    trials = list(worker._trials(ScheduleConfig(), everything=True))
    names = {trial.schedule.name for trial in trials}
    assert names == set(SCHEDULES) - {"betas"}
    assert len(trials) == 2 * len(names)
    assert all(trial.direct == trial.converted == oracle.STEPS for trial in trials)
    assert trials[0].schedule.name == "cosine"


def test_a_regression_is_refused():
    with pytest.raises(UserError, match="no sampler"):
        sampler(project(diffusion={"parametrisation": "regression"}))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.yaml"):
        report.project_of(Run(tmp_path), None, [])


def test_settings_come_from_a_file_and_words(tmp_path):
    (tmp_path / "own.yaml").write_text("diffusion: {schedule: {name: betas, beta_end: 0.0085}}")
    found = report.project_of(None, tmp_path / "own.yaml", ["sampling.steps=8"])
    assert (found.diffusion.schedule.beta_end, found.sampling.steps) == (0.0085, 8)


@pytest.mark.parametrize(("right", "code"), [(True, 0), (False, 1)])
def test_what_is_broken_decides_the_exit_code(monkeypatch, right, code):
    monkeypatch.setattr(worker, "sampler", lambda project, **_: right)
    monkeypatch.setattr(base, "_set_up_logging", lambda *_: None)
    assert cli.cli.main(["diagnose", "sampler"], standalone_mode=False) == code
