"""`train-diffusion`: trains a diffusion model on a store of latents; logs losses with baselines."""

from __future__ import annotations

import logging
from pathlib import Path

from latentdiff.model import residual
from latentdiff.model.project import Project
from latentdiff.model.train import TrainingPlan, plan_training, train
from latentdiff.networks.build import describe
from latentdiff.runs import Run
from latentdiff.training import verdict
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.trainer import TrainingOutcome

log = logging.getLogger(__name__)


def train_diffusion(
    run: Run,
    project: Project,
    *,
    latents: Path | None = None,
    devices: str | int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Train on `latents` (or the run's own) until the budget is used up; again: resumes.

    `devices`, `num_nodes`, `strategy`: see `Launch`.
    """
    launch = Launch(project.device, devices, num_nodes, strategy)
    fabric = make_fabric(launch, project.training.precision)
    plan = plan_training(run, project, latents)
    _log_plan(plan)
    if dry_run:
        log.info("dry run: nothing was written; it would train in %s", run.diffusion)
        return []
    outcome = train(plan, fabric, overwrite=overwrite)
    if outcome is not None:
        _log_outcome(outcome)
        residual.log_residual_noise(run, plan.project, plan.data, outcome.best)
    return []


def _log_plan(plan: TrainingPlan) -> None:
    settings, data, spec = plan.project.training, plan.data, plan.data.model.spec
    for warning in spec.recipe.warnings:
        log.warning("%s", warning)
    log.info("latents: %s", data.statistics.describe(plan.project.latents.keep))
    for split in ("train", "validation"):
        entries = data.store.of(split)
        frames = sum(entry.frames for entry in entries)
        minutes = spec.seconds(frames) / 60
        log.info("%s: %d files, %d frames, %.1f minutes", split, len(entries), frames, minutes)
    if not data.store.of("validation"):
        log.warning(
            "no file is held out: losses are measured on training files only, so overfitting goes "
            "unnoticed, and the last weights are kept instead of the best"
        )
    short = sum(entry.frames < settings.window for entry in data.store.of("train"))
    if short:
        log.info("%d training files are shorter than a window and are padded", short)
    log.info(
        "network: %s (window %d frames = %.1f s)",
        describe(data.model.denoiser.network),  # type: ignore[arg-type]
        settings.window,
        spec.seconds(settings.window),
    )


def _log_outcome(outcome: TrainingOutcome) -> None:
    best = outcome.best
    if best is None:
        log.info(
            "done at step %d: %s on the training files (%s)",
            outcome.step,
            verdict.short(outcome.training.metrics()),
            verdict.skill(outcome.training.skill),
        )
    else:
        log.info(
            "done at step %d; best at step %s on held-out files: %s (%s)",
            outcome.step,
            outcome.best_step,
            verdict.short(best.metrics()),
            verdict.skill(best.skill),
        )
        if best.conditioning_gain is not None:
            gain = best.conditioning_gain
            log.info("conditioning gain %.2f: %s", gain, verdict.conditioning(gain))
        if len(best.gains) > 1:
            for kind, one in best.gains.items():
                log.info("  %s alone %.2f: %s", kind, one, verdict.conditioning(one))
    if best is not None and (warning := verdict.form(best)) is not None:
        log.warning("%s", warning)
    log.info("checkpoint: %s; next: latentdiff sample", outcome.path)
