"""`diagnose schedule`: it gives the numbers of the notebook, and names faults."""

from __future__ import annotations

import json
import logging
import math
import re

import numpy as np
import pytest
import torch

from latentdiff import config, runs
from latentdiff.diagnose.schedule.measure import facts, schedule
from latentdiff.diffusion import noise
from latentdiff.diffusion.gallery import GALLERY, LITERATURE, NOTEBOOK
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.settings import ScheduleConfig
from latentdiff.errors import UserError
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.model.project import Project
from latentdiff.runs import Run, Stage

LADDER = {"tolerance_std": 0.4, "kept": 3, "dimensions": 3}
ONE = torch.ones(1, dtype=torch.float64)


def project(**sections):
    return config.build(Project, sections)


def betas(start, end, steps=1000):
    return config.build(
        ScheduleConfig,
        {"name": "betas", "beta_start": start, "beta_end": end, "beta_steps": steps},
    )


def floors(start, end, steps=1000, std=1.0, output="eps"):
    """L1 and MSE of the best model that knows only the variance."""
    built = noise.build(betas(start, end, steps))
    losses = facts(built, std**2 * ONE).losses[output]
    return losses["l1"].variance, losses["mse"].variance


@pytest.fixture
def logged(caplog):
    """Everything that was logged so far."""
    caplog.set_level(logging.INFO, "latentdiff")
    return lambda: caplog.text


@pytest.fixture
def run(tmp_path):
    """A run with the statistics of latents: ratios 16, 4 and 1/100 to the encoder's noise."""
    made = Run(tmp_path / "run")
    with Stage(made.latents, "encode"):
        LatentStatistics(
            frames=100,
            mean=np.zeros(3),
            covariance=np.diag([4.0, 2.0, 0.01]),
            minimum=-np.ones(3),
            maximum=np.ones(3),
            posterior_variance=np.array([0.25, 0.5, 1.0]),
        ).save(made.latents / "stats.safetensors")
    made.config.write_text("{}")
    return made


def ladder(run, logsnr):
    folder = run.root / "diagnosis" / "noise-ladder"
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / "noise-ladder.json", {**LADDER, "tolerance_logsnr": logsnr})


def test_the_notebooks_losses_are_those_of_learning_nothing():
    assert floors(1e-4, 0.05, 50)[0] == pytest.approx(0.654, abs=5e-4)  # N34, noted 0.65
    assert floors(1e-4, 0.05, 500)[1] == pytest.approx(0.248, abs=5e-4)  # N35, noted 0.25
    assert floors(1e-4, 0.05, 500)[0] == pytest.approx(0.280, abs=5e-4)
    assert floors(1e-4, 0.05)[0] == pytest.approx(0.198, abs=5e-4)  # N36, noted 0.21
    assert floors(1e-5, 0.005)[0] == pytest.approx(0.559, abs=5e-4)  # N61 ...
    assert floors(0.0015, 0.0195)[0] == pytest.approx(0.275, abs=5e-4)  # ... beside this
    assert floors(1e-4, 0.02, std=0.25)[0] == pytest.approx(0.150, abs=5e-4)  # N75
    scaled = [floors(1e-4, 0.05, std=std) for std in (0.2, 0.25)]  # N71, noted 0.07
    assert [l1 for l1, _ in scaled] == pytest.approx([0.083, 0.095], abs=1e-3)
    assert [mse for _, mse in scaled] == pytest.approx([0.052, 0.063], abs=1e-3)
    own = [floors(1e-4, 0.04, std=std)[0] for std in (0.2, 0.25)]  # N80
    assert own == pytest.approx([0.092, 0.106], abs=1e-3)


def test_the_notebooks_losses_of_one_channel_are_predicting_zero():
    losses = facts(noise.build(betas(1e-4, 0.05, 50)), ONE).losses["eps"]
    assert losses["l1"].zero == pytest.approx(math.sqrt(2 / math.pi))  # N24 to N31: 0.8
    assert losses["mse"].zero == 1.0  # N32


def test_the_notebooks_gains():
    gain = lambda *args: facts(noise.build(betas(*args)), ONE).gain  # noqa: E731
    assert gain(0.0015, 0.0195) == pytest.approx(197, abs=0.5)
    assert gain(1e-4, 0.05) == pytest.approx(3.4e5, rel=0.01)
    assert gain(1e-5, 0.0085) == pytest.approx(8.44, abs=0.01)
    assert gain(1e-4, 1.0) is None


def test_floors_of_a_chain_weigh_every_step_alike():
    """mean(abar) and mean(1 - abar), as line 2 of the notebook's story has them."""
    abar = torch.cumprod(1 - noise.linear_betas(1e-4, 0.05, 50), 0)
    l1, mse = floors(1e-4, 0.05, 50)
    assert mse == pytest.approx(abar.mean().item(), abs=1e-9)
    assert l1 == pytest.approx(math.sqrt(2 / math.pi) * abar.sqrt().mean().item(), abs=1e-9)
    assert floors(1e-4, 0.05, 50, output="x0")[1] == pytest.approx((1 - abar).mean().item())
    assert floors(1e-4, 0.05, 50, output="v") == pytest.approx((math.sqrt(2 / math.pi), 1.0))


@pytest.mark.parametrize(("end", "share"), [(0.05, 0.31), (1.0, 0.85)])
def test_levels_beyond_noise_are_counted(end, share):
    abar = torch.cumprod(1 - noise.linear_betas(1e-4, end, 1000), 0)
    beyond = (abar / (1 - abar) < math.exp(-12)).double().mean().item()
    assert facts(noise.build(betas(1e-4, end)), ONE).beyond_noise == pytest.approx(beyond)
    assert beyond == pytest.approx(share, abs=5e-3)


@pytest.mark.parametrize("output", ["eps", "v", "x0", "flow"])
def test_floors_are_losses_of_models_that_learned_nothing(output):
    """Monte Carlo of the real objective on the levels that a chain visits."""
    built, std = noise.build(betas(1e-4, 0.05, 50)), 0.5
    g = torch.Generator().manual_seed(0)
    logsnr = built.visited().float().repeat(400)
    z, eps = (torch.randn(len(logsnr), 2, 8, generator=g) for _ in range(2))

    def knows_the_variance(z_t, logsnr, condition):
        alpha, sigma = noise.alpha_sigma(logsnr[:, None, None])
        return alpha * std**2 / (alpha**2 * std**2 + sigma**2) * z_t

    found = facts(built, std**2 * ONE).losses[output]
    for kind in ("l1", "mse"):
        loss = Objective(output, kind=kind)(knows_the_variance, std * z, logsnr, eps, None)
        assert loss.mean().item() == pytest.approx(found[kind].variance, rel=0.01)


def test_the_gallery_has_ten_of_each_literature_and_the_users():
    assert len(LITERATURE) >= 10
    own = {(e.config.beta_start, e.config.beta_end, e.config.beta_steps) for e in NOTEBOOK}
    assert own >= {(1e-5, 0.0085, 1000), (1e-5, 0.005, 1000), (1e-4, 0.04, 1000), (1e-4, 1, 1000)}
    assert len({exhibit.name for exhibit in GALLERY}) == len(GALLERY)
    levels = [noise.build(exhibit.config).visited().tolist() for exhibit in GALLERY]
    assert len({tuple(x) for x in levels}) == len(GALLERY), "no two are the same"
    assert all("arXiv" in exhibit.source for exhibit in LITERATURE)


def test_shifted_paths_are_those_of_their_papers():
    by_name = {exhibit.name: exhibit.config for exhibit in GALLERY}
    wide = {"logsnr_max": 20.0, "logsnr_min": -20.0}
    flow = noise.build(by_name["flow, shifted"].model_copy(update=wide))
    t = torch.tensor([0.2, 0.5, 0.8]).double()
    moved = 3 * t / (1 + 2 * t)
    torch.testing.assert_close(flow(t), 2 * torch.logit(1 - moved), atol=2e-3, rtol=0)


def test_the_gallery_is_one_table_and_one_picture(logged, tmp_path):
    schedule(project(), gallery=True, out=tmp_path / "out")
    for exhibit in GALLERY:
        assert exhibit.name in logged() and exhibit.source in logged()
    assert "your settings" not in logged(), "the default is in the gallery already"
    assert "53% of the signal left" in logged() and "infinite" in logged()
    rows = json.loads((tmp_path / "out" / "schedules.json").read_text())["schedules"]
    assert len(rows) == len(GALLERY)
    assert (tmp_path / "out" / "schedules.png").read_bytes().startswith(b"\x89PNG")


def test_settings_stand_first_in_the_gallery(logged):
    schedule(project(diffusion={"schedule": {"name": "cosine", "shift": 1.0}}), gallery=True)
    assert "your settings" in logged()


def test_a_good_schedule_has_nothing_wrong(logged):
    schedule(project())
    assert "nothing wrong" in logged()
    assert "unknown without latents" in logged()
    assert re.search(r"\n  v +0\.798 +1\.000 +0\.798 +1\.000\n", logged())


@pytest.mark.parametrize(
    ("settings", "tolerance", "advice"),
    [
        ({"name": "cosine", "logsnr_min": -3.0}, None, ": lower logsnr_min (diffusion.schedule)"),
        ({"name": "cosine", "logsnr_min": -20.0}, None, ": raise logsnr_min (diffusion.schedule)"),
        ({"name": "cosine"}, 9.0, ": raise logsnr_max (diffusion.schedule)"),
        ({"name": "diffwave"}, None, ": choose another diffusion.schedule.name"),
        ({"name": "audioldm"}, 9.0, ": choose another diffusion.schedule.name"),
        ({"name": "betas", "beta_end": 0.005}, None, ": raise beta_end or beta_steps"),
        ({"name": "betas", "beta_end": 0.05}, None, ": lower beta_end or beta_steps"),
        ({"name": "betas"}, 10.0, ": lower beta_start (diffusion.schedule)"),
    ],
)
def test_advice_names_settings_that_the_schedule_reads(logged, run, settings, tolerance, advice):
    if tolerance is not None:
        ladder(run, tolerance)
    schedule(project(diffusion={"schedule": settings}), run=run)
    assert advice in logged()


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ((1e-5, 0.0085), "never reaches pure noise (12% of the signal is left)"),
        ((1e-4, 0.05), "gain 3.41e+05: 31% of the levels lie beyond log-SNR -12"),
        ((1e-4, 1.0), "gain infinite: 85% of the levels"),
    ],
)
def test_faults_are_named(logged, chain, expected):
    own = betas(*chain).model_dump()
    schedule(project(diffusion={"schedule": own}))
    assert expected in logged()
    assert "nothing wrong" not in logged()


def test_the_deviation_of_the_latents_can_be_given(logged):
    schedule(project(diffusion={"schedule": betas(1e-4, 0.02).model_dump()}), std=0.25)
    assert "latents of variance 0.0625" in logged()
    assert "0.150" in logged()


def test_a_run_places_its_latents_on_the_schedule(logged, run):
    ladder(run, 2.0)
    schedule(project(latents={"keep": "all"}), run=run)
    found = json.loads((run.root / "diagnosis" / "schedule" / "schedule.json").read_text())
    # Noise as strong as the encoder's: log-SNR = ln(variance / its noise).
    assert found["posterior"]["most"] == pytest.approx(math.log(16), abs=1e-6)
    assert found["posterior"]["median"] == pytest.approx(math.log(4), abs=1e-6)
    assert found["posterior"]["least"] == pytest.approx(math.log(0.01), abs=1e-6)
    # Cosine: log-SNR 2 lies at t = 2 / pi atan(exp(-1)), between the ends at 8 and -10.
    t = [2 / math.pi * math.atan(math.exp(-0.5 * level)) for level in (8.0, 2.0, -10.0)]
    share = (t[1] - t[0]) / (t[2] - t[0])
    assert found["tolerance"]["cleaner_share"] == pytest.approx(share, abs=2e-3)
    assert found["latents"]["variance"] == pytest.approx([1.0, 1.0, 1.0])
    assert "decoder: it tolerates noise at log-SNR 2.0 and above" in logged()
    assert "cleaner than the decoder needs" in logged()
    assert (run.root / "diagnosis" / "schedule" / "schedule.png").exists()


def test_unequal_latents_move_their_marks(run):
    """Scaled by one factor, a direction's noise is as far below unit noise as it is weak."""
    schedule(project(latents={"keep": 2, "scaling": "global"}), run=run)
    found = json.loads((run.root / "diagnosis" / "schedule" / "schedule.json").read_text())
    assert found["latents"]["variance"] == pytest.approx([4 / 3, 2 / 3])
    marks = [math.log(16 / (4 / 3)), math.log(4 / (2 / 3))]
    assert [found["posterior"]["most"], found["posterior"]["least"]] == pytest.approx(marks)


def test_what_is_unknown_names_the_command(logged, run):
    schedule(project(), run=run)
    assert f"latentdiff diagnose noise-ladder --run {run.root}" in logged()


def test_a_ladder_that_broke_nothing_is_reported(logged, run):
    ladder(run, None)
    schedule(project(), run=run)
    assert "tolerated all the noise" in logged()


def test_a_clean_end_too_noisy_for_the_decoder_is_named(logged, run):
    ladder(run, 9.0)
    schedule(project(), run=run)
    assert "its clean end, log-SNR 8.0, is noisier than the decoder tolerates (9.0)" in logged()


def test_a_run_without_latents_reports_it(logged, tmp_path):
    run = Run(tmp_path)
    run.config.write_text("{}")
    schedule(project(), run=run)
    assert "no latents" in logged() and "latentdiff encode" in logged()


def test_another_schedule_or_ladder_is_another_report(run):
    schedule(project(), run=run)
    schedule(project(), run=run)
    with pytest.raises(UserError, match="made with other settings or inputs"):
        schedule(project(diffusion={"schedule": {"name": "flow"}}), run=run)
    ladder(run, 1.0)
    with pytest.raises(UserError, match="noise-ladder"):
        schedule(project(), run=run)
    schedule(project(), run=run, overwrite=True)


def test_a_regression_is_refused():
    with pytest.raises(UserError, match="no noise schedule"):
        schedule(project(diffusion={"parametrisation": "regression"}))
