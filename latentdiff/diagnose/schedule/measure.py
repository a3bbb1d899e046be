"""`diagnose schedule`: which noise levels a schedule visits, and what that does to losses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.diagnose.report import Report, run_question
from latentdiff.diagnose.schedule import picture as schedule_pictures
from latentdiff.diagnose.schedule import report as schedule_report
from latentdiff.diffusion import baseline, noise
from latentdiff.diffusion.gallery import GALLERY, Exhibit
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import CHAIN_LIMIT, NOISE_ONLY, Schedule
from latentdiff.errors import UserError
from latentdiff.evaluation.tolerance import NOISE_LADDER
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import STATISTICS
from latentdiff.latents.whitening import Whitening
from latentdiff.model.project import Project
from latentdiff.model.resolve import latents_path
from latentdiff.runs import Input, Run

PARAMETRISATIONS = ("eps", "v", "x0", "flow")
KINDS = ("l1", "mse")

POINTS = 101
"""Of the curve that is written down."""


@dataclass(frozen=True)
class Marks:
    """What is known of a run's latents on the axis of noise."""

    variance: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))
    """[C], of the final latents."""
    posterior: Sequence[float] = ()
    """[C], the log-SNR at which noise is as strong as the encoder's own, direction by direction."""
    tolerance: float | None = None
    """The log-SNR above which the decoder does not mind."""
    inputs: dict[str, Input] | None = None
    missing: Sequence[str] = ()
    """What is not known, and which command tells it."""


def schedule(
    project: Project,
    *,
    run: Run | None = None,
    out: Path | None = None,
    gallery: bool = False,
    std: float | None = None,
    overwrite: bool = False,
) -> None:
    """Tell a schedule's log-SNR, its end, its gain, and the losses of models that learned nothing.

    With a `run`, also where the encoder's own noise and the decoder's tolerance lie on the axis.
    `gallery`: beside the schedules of the literature and of the notebook. `std`: deviation of the
    latents, instead of the run's or 1. Writes into `out`, else `run`/diagnosis/schedule (or
    .../schedules for the gallery), else nowhere. Raises UserError for a regression, which has none.
    """
    if project.diffusion.parametrisation == "regression":
        raise UserError(
            "a regression has no schedule to diagnose",
            why="it is given no noisy latents at all",
            do_this="name another: diffusion.parametrisation=v.",
        )
    marks = _marks(run, project, std)
    name = "schedules" if gallery else "schedule"
    run_question(
        name,
        dict,
        lambda: _gallery(project, marks) if gallery else _single(project, marks),
        out or (run.diagnosis / name if run else None),
        settings={
            "diffusion": project.diffusion.model_dump(mode="json"),
            "latents": project.latents.model_dump(mode="json", include={"keep", "scaling"}),
            "std": std,
        },
        inputs=marks.inputs,
        overwrite=overwrite,
    )


def _single(project: Project, marks: Marks) -> Report[dict[str, Any]]:
    built = noise.build(project.diffusion.schedule)
    results = {
        **facts(built, marks.variance),
        "latents": {"variance": marks.variance.tolist()},
        "configured": _configured(project, built, marks.variance),
        "posterior": _posterior(built, marks.posterior),
        "tolerance": _tolerance(built, marks.tolerance),
        "missing": list(marks.missing),
    }
    return Report(
        results,
        schedule_report.single(results),
        {"schedule.png": lambda path: schedule_pictures.single(path, results)},
    )


def _gallery(project: Project, marks: Marks) -> Report[dict[str, Any]]:
    own = Exhibit("configured", project.diffusion.schedule, "your settings")
    known = any(exhibit.config == own.config for exhibit in GALLERY)
    rows = [_exhibited(exhibit, marks) for exhibit in (GALLERY if known else (own, *GALLERY))]
    results = {"latents": {"variance": marks.variance.tolist()}, "schedules": rows}
    return Report(
        results,
        schedule_report.gallery(results),
        {"schedules.png": lambda path: schedule_pictures.gallery(path, rows)},
    )


def _exhibited(exhibit: Exhibit, marks: Marks) -> dict[str, Any]:
    return {
        **facts(noise.build(exhibit.config), marks.variance),
        "name": exhibit.name,
        "source": exhibit.source,
        "notebook": exhibit.notebook,
        "settings": exhibit.config.model_dump(mode="json", exclude_defaults=True),
    }


def facts(built: Schedule, variance: Tensor) -> dict[str, Any]:
    """Of one schedule, for latents of `variance` [C]; all plain values."""
    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    visited = built.visited()
    # Beyond its limit a chain's log-SNR is not known: its last beta is 1.
    endless = built.logsnr_min <= -CHAIN_LIMIT
    return {
        "name": built.name,
        "steps": built.steps,
        "logsnr_max": built.logsnr_max,
        "logsnr_min": built.logsnr_min,
        "gain": None if endless else built.gain,
        "signal_left": 0.0 if endless else 1 / built.gain,
        "beyond_noise": float((visited < NOISE_ONLY).double().mean()),
        "visited": {str(q): float(visited.quantile(1 - q / 100)) for q in (10, 50, 90)},
        "curve": {"t": t.tolist(), "logsnr": built(t).tolist()},
        "losses": {
            parametrisation: {
                kind: _losses(parametrisation, kind, visited, variance) for kind in KINDS
            }
            for parametrisation in PARAMETRISATIONS
        },
        "warnings": built.warnings,
    }


def _losses(parametrisation: Any, kind: Any, logsnr: Tensor, variance: Tensor) -> dict[str, float]:
    return _mean_losses(Objective(parametrisation, kind=kind), logsnr, variance)


def _mean_losses(objective: Objective, logsnr: Tensor, variance: Tensor) -> dict[str, float]:
    """Over the levels [N], each weighing alike, of models that learned nothing."""
    return {
        "zero": float(baseline.zero(objective, logsnr, variance).mean()),
        "variance": float(baseline.variance_only(objective, logsnr, variance).mean()),
    }


def _configured(project: Project, built: Schedule, variance: Tensor) -> dict[str, Any]:
    """The same in the very objective that `train-diffusion` would minimise."""
    diffusion = project.diffusion
    return {
        "parametrisation": diffusion.parametrisation,
        "loss": diffusion.loss,
        "weighting": diffusion.weighting,
        **_mean_losses(Objective.from_config(diffusion), built.visited(), variance),
    }


def _posterior(built: Schedule, levels: Sequence[float]) -> dict[str, Any] | None:
    if not levels:
        return None
    visited = built.visited()
    return {
        "least": min(levels),
        "median": float(np.median(levels)),
        "most": max(levels),
        "cleaner_share": float((visited > max(levels)).double().mean()),
    }


def _tolerance(built: Schedule, level: float | None) -> dict[str, Any] | None:
    if level is None:
        return None
    return {
        "logsnr": level,
        "cleaner_share": float((built.visited() > level).double().mean()),
        "reached": built.logsnr_max >= level,
    }


def _marks(run: Run | None, project: Project, std: float | None) -> Marks:
    marks = Marks() if run is None else _of_run(run, project)
    if std is None:
        return marks
    return replace(marks, variance=torch.tensor([std**2], dtype=torch.float64))


def _of_run(run: Run, project: Project) -> Marks:
    """From the statistics of its latents and its noise ladder, as far as there are any."""
    path = _statistics_of(run)
    if path is None:
        none = f"there are no latents in {run.root} yet: `latentdiff encode` makes them"
        return Marks(missing=[none])
    statistics = LatentStatistics.load(path)
    inputs = {"statistics": Input(str(path), runs.sha256_file(path))}
    variance, missing = _variance(statistics, project), []
    posterior: list[float] = []
    if statistics.posterior_variance is None:
        missing.append("the encoder's own noise is not known: these latents came without it")
    else:
        ratio = statistics.signal_to_noise()[statistics.kept(project.latents.keep)]
        posterior = np.log(ratio / variance.numpy()).tolist()
    ladder = run.diagnosis / NOISE_LADDER / f"{NOISE_LADDER}.json"
    if not ladder.is_file():
        measure = f"`latentdiff diagnose noise-ladder --run {run.root}` measures it"
        missing.append(f"the decoder's tolerance is not known: {measure}")
        return Marks(variance, posterior, None, inputs, missing)
    inputs["noise-ladder"] = Input(str(ladder), runs.sha256_file(ladder))
    tolerance = json.loads(ladder.read_text(encoding="utf-8"))["tolerance_logsnr"]
    if tolerance is None:
        missing.append("the decoder bore all the noise that the noise ladder tried")
    return Marks(variance, posterior, tolerance, inputs, missing)


def _variance(statistics: LatentStatistics, project: Project) -> Tensor:
    """[C] of the final latents."""
    keep, scaling = project.latents.keep, project.latents.scaling
    return Whitening.from_statistics(statistics, keep, scaling).variance.double()


def _statistics_of(run: Run) -> Path | None:
    """The statistics of the run's latents, or of those its model was trained on."""
    with suppress(UserError):
        path = latents_path(run, None, run.diffusion) / STATISTICS
        if path.is_file():
            return path
    return None
