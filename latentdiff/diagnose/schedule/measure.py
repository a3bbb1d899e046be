"""Measure for `diagnose schedule`: log-SNR, end, gain, and baseline losses.

Shapes: C latent channels, N noise levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.diagnose.report import Report, run_question
from latentdiff.diagnose.schedule import picture
from latentdiff.diagnose.schedule import report as schedule_report
from latentdiff.diagnose.schedule.results import (
    BaselineLosses,
    ConfiguredLosses,
    Curve,
    EncoderNoise,
    GalleryResults,
    GalleryRow,
    LatentVariance,
    ScheduleFacts,
    ScheduleResults,
    ToleranceOnSchedule,
)
from latentdiff.diffusion import baseline, noise
from latentdiff.diffusion.gallery import GALLERY, Exhibit
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import CHAIN_LIMIT, NOISE_ONLY, Schedule
from latentdiff.diffusion.settings import LossKind, Parametrisation
from latentdiff.errors import UserError
from latentdiff.evaluation import tolerance
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import STATISTICS
from latentdiff.latents.whitening import Whitening
from latentdiff.model.project import Project
from latentdiff.model.resolve import latents_path
from latentdiff.runs import Input, Run

PARAMETRISATIONS = tuple(name for name in get_args(Parametrisation) if name != "regression")
KINDS: tuple[LossKind, ...] = ("l1", "mse")

POINTS = 101
"""Points of the curve in the JSON file."""


@dataclass(frozen=True)
class LatentFacts:
    """Measurements of a run's latents and decoder."""

    variance: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))
    """Variance [C] of the model's (whitened) latents."""
    encoder_noise: Sequence[float] = ()
    """[C], the log-SNR at which the schedule's noise equals the encoder's own, by direction."""
    tolerance: float | None = None
    """The log-SNR above which noise does not change the decoded sound much."""
    inputs: dict[str, Input] | None = None
    missing: Sequence[str] = ()
    """Missing measurements, each with the command that makes it."""


def schedule(
    project: Project,
    *,
    run: Run | None = None,
    out: Path | None = None,
    gallery: bool = False,
    std: float | None = None,
    overwrite: bool = False,
) -> None:
    """Report a schedule's log-SNR, its end, its gain, and its baseline losses.

    Given a `run`, also where the encoder's own noise and the decoder's tolerance lie on the
    log-SNR axis. `gallery`: compare with schedules of the literature and of the notebook. `std`:
    standard deviation of the latents; None: the run's, or 1. Writes into `out`, else into
    `run`/diagnosis/schedule (or .../schedules for the gallery), else nowhere. Raises UserError for
    a regression, which has no schedule.
    """
    if project.diffusion.parametrisation == "regression":
        raise UserError(
            "a regression has no noise schedule",
            why="it never sees noisy latents",
            do_this="choose another parametrisation: diffusion.parametrisation=v.",
        )
    latents = _latent_facts(run, project, std)
    name = "schedules" if gallery else "schedule"
    directory = out or (run.diagnosis / name if run else None)
    settings = {
        "diffusion": project.diffusion.model_dump(mode="json"),
        "latents": project.latents.model_dump(mode="json", include={"keep", "scaling"}),
        "std": std,
    }
    inputs = latents.inputs
    if gallery:
        run_question(
            name,
            GalleryResults,
            lambda: _gallery(project, latents),
            directory,
            settings=settings,
            inputs=inputs,
            overwrite=overwrite,
        )
    else:
        run_question(
            name,
            ScheduleResults,
            lambda: _single(project, latents),
            directory,
            settings=settings,
            inputs=inputs,
            overwrite=overwrite,
        )


def _single(project: Project, latents: LatentFacts) -> Report[ScheduleResults]:
    built = noise.build(project.diffusion.schedule)
    results = ScheduleResults(
        **vars(facts(built, latents.variance)),
        latents=LatentVariance(latents.variance.tolist()),
        configured=_configured(project, built, latents.variance),
        posterior=_encoder_noise(built, latents.encoder_noise),
        tolerance=_tolerance(built, latents.tolerance),
        missing=list(latents.missing),
    )
    return Report(
        results,
        schedule_report.single(results),
        {"schedule.png": lambda path: picture.single(path, results)},
    )


def _gallery(project: Project, latents: LatentFacts) -> Report[GalleryResults]:
    own = Exhibit("configured", project.diffusion.schedule, "your settings")
    known = any(exhibit.config == own.config for exhibit in GALLERY)
    rows = [_gallery_row(exhibit, latents) for exhibit in (GALLERY if known else (own, *GALLERY))]
    results = GalleryResults(LatentVariance(latents.variance.tolist()), rows)
    return Report(
        results,
        schedule_report.gallery(results),
        {"schedules.png": lambda path: picture.gallery(path, rows)},
    )


def _gallery_row(exhibit: Exhibit, latents: LatentFacts) -> GalleryRow:
    schedule_facts = facts(noise.build(exhibit.config), latents.variance)
    return GalleryRow(
        **{**vars(schedule_facts), "name": exhibit.name},
        source=exhibit.source,
        notebook=exhibit.notebook,
        settings=exhibit.config.model_dump(mode="json", exclude_defaults=True),
    )


def facts(built: Schedule, variance: Tensor) -> ScheduleFacts:
    """One schedule, for latents of `variance` [C]."""
    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    visited = built.visited()
    # A chain's log-SNR is cut at its limit: with a last beta of 1, nothing of the signal is left.
    endless = built.logsnr_min <= -CHAIN_LIMIT
    return ScheduleFacts(
        name=built.name,
        steps=built.steps,
        logsnr_max=built.logsnr_max,
        logsnr_min=built.logsnr_min,
        gain=None if endless else built.gain,
        signal_left=0.0 if endless else 1 / built.gain,
        beyond_noise=float((visited < NOISE_ONLY).double().mean()),
        visited={str(q): float(visited.quantile(1 - q / 100)) for q in (10, 50, 90)},
        curve=Curve(t.tolist(), built(t).tolist()),
        losses={
            parametrisation: {
                kind: _baselines(Objective(parametrisation, kind=kind), visited, variance)
                for kind in KINDS
            }
            for parametrisation in PARAMETRISATIONS
        },
        warnings=built.warnings,
    )


def _baselines(objective: Objective, logsnr: Tensor, variance: Tensor) -> BaselineLosses:
    """Over the levels [N], with equal weights."""
    return BaselineLosses(
        zero=float(baseline.zero(objective, logsnr, variance).mean()),
        variance=float(baseline.variance_only(objective, logsnr, variance).mean()),
    )


def _configured(project: Project, built: Schedule, variance: Tensor) -> ConfiguredLosses:
    diffusion = project.diffusion
    losses = _baselines(Objective.from_config(diffusion), built.visited(), variance)
    return ConfiguredLosses(
        zero=losses.zero,
        variance=losses.variance,
        parametrisation=diffusion.parametrisation,
        loss=diffusion.loss,
        weighting=diffusion.weighting,
    )


def _encoder_noise(built: Schedule, logsnr: Sequence[float]) -> EncoderNoise | None:
    if not logsnr:
        return None
    return EncoderNoise(
        least=min(logsnr),
        median=float(np.median(logsnr)),
        most=max(logsnr),
        cleaner_share=float((built.visited() > max(logsnr)).double().mean()),
    )


def _tolerance(built: Schedule, logsnr: float | None) -> ToleranceOnSchedule | None:
    if logsnr is None:
        return None
    return ToleranceOnSchedule(
        logsnr=logsnr,
        cleaner_share=float((built.visited() > logsnr).double().mean()),
        reached=built.logsnr_max >= logsnr,
    )


def _latent_facts(run: Run | None, project: Project, std: float | None) -> LatentFacts:
    known = LatentFacts() if run is None else _of_run(run, project)
    if std is None:
        return known
    return replace(known, variance=torch.tensor([std**2], dtype=torch.float64))


def _of_run(run: Run, project: Project) -> LatentFacts:
    """Read the latent statistics and the noise ladder of a run, as far as they exist."""
    path = _statistics_of(run)
    if path is None:
        none = f"there are no latents in {run.root} yet: `latentdiff encode` makes them"
        return LatentFacts(missing=[none])
    statistics = LatentStatistics.load(path)
    inputs = {"statistics": Input(str(path), runs.sha256_file(path))}
    variance, missing = _variance(statistics, project), []
    encoder_noise: list[float] = []
    if statistics.posterior_variance is None:
        missing.append("the encoder's own noise is unknown: these latents came without it")
    else:
        ratio = statistics.signal_to_noise()[statistics.kept(project.latents.keep)]
        # Noise of the posterior's variance n on latents of variance s, both scaled alike, is the
        # schedule's noise at alpha^2 / sigma^2 = ratio / variance of the scaled latents.
        encoder_noise = np.log(ratio / variance.numpy()).tolist()
    ladder = tolerance.read(run)
    if ladder is None:
        measure = f"`latentdiff diagnose noise-ladder --run {run.root}` measures it"
        missing.append(f"the decoder's noise tolerance is unknown: {measure}")
        return LatentFacts(variance, encoder_noise, None, inputs, missing)
    file = tolerance.path_of(run)
    inputs["noise-ladder"] = Input(str(file), runs.sha256_file(file))
    if ladder.tolerance_logsnr is None:
        missing.append("the decoder tolerated all the noise that the noise ladder tried")
    return LatentFacts(variance, encoder_noise, ladder.tolerance_logsnr, inputs, missing)


def _variance(statistics: LatentStatistics, project: Project) -> Tensor:
    """Variance [C] of the model's (whitened) latents."""
    keep, scaling = project.latents.keep, project.latents.scaling
    return Whitening.from_statistics(statistics, keep, scaling).variance.double()


def _statistics_of(run: Run) -> Path | None:
    """The statistics of the run's latents, or of those its model was trained on."""
    with suppress(UserError):
        path = latents_path(run, None, run.diffusion) / STATISTICS
        if path.is_file():
            return path
    return None
