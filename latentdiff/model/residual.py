"""Whether the noise that a trained model leaves is more than the decoder tolerates."""

from __future__ import annotations

import logging

from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.schedules import SCHEDULES
from latentdiff.diffusion.settings import ScheduleConfig
from latentdiff.evaluation import tolerance
from latentdiff.evaluation.tolerance import crossing, error_of
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.data import TrainingData
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.training.validation import Validation

log = logging.getLogger(__name__)


def log_residual_noise(
    run: Run, project: Project, data: TrainingData, validation: Validation | None
) -> None:
    """Log how the errors at the validated noise levels compare with the decoder's noise tolerance.

    Logs nothing if `diagnose noise-ladder` was not run on these latents, in this run or beside
    their store; nor with deliberate mistakes, where losses need not be errors of the latents.
    """
    std = tolerance_std(run, data.store, data.model.whitening)
    if std is None or validation is None or not project.recipe.is_sound:
        return
    objective = Objective.from_config(project.diffusion)
    errors = errors_of(objective, validation.logsnr, validation.losses)
    cleanest = (
        f"residual noise at the cleanest level, log-SNR {validation.logsnr[0]:+.1f}: "
        f"{errors[0]:.2g} standard deviations of the latents; the decoder tolerates {std:.2g} "
        "(diagnose noise-ladder)"
    )
    if errors[0] > std:
        log.warning("%s: audible. Train longer, or %s", cleanest, _cleaner(project))
        return
    log.info("%s: inaudible", cleanest)
    baselines = errors_of(objective, validation.logsnr, validation.baselines)
    own, known = (crossing(validation.logsnr, e, std) for e in (errors, baselines))
    if own is None:
        log.info("the residual noise is inaudible at every validated level")
    elif known is not None:
        log.info(
            "the residual noise is inaudible from log-SNR %+.1f up (variance-only baseline: "
            "from %+.1f up)",
            own,
            known,
        )


def errors_of(objective: Objective, logsnr: list[float], losses: list[float]) -> list[float]:
    """Root mean square errors of the latents that correspond to the losses at these levels."""
    pairs = zip(losses, logsnr, strict=True)
    return [error_of(objective, loss, level) for loss, level in pairs]


def tolerance_std(run: Run, store: LatentStore, whitening: Whitening) -> float | None:
    """Standard deviations of whitened latents, from the run's noise ladder or one at the store.

    None if there is none, or if it kept other directions.
    """
    for owner in (run, Run(store.root.parent)):
        ladder = tolerance.read(owner)
        kept = (whitening.channels, whitening.dimensions)
        if ladder is not None and (ladder.kept, ladder.dimensions) == kept:
            return ladder.tolerance_std
    return None


def _cleaner(project: Project) -> str:
    """The setting, among those that the schedule reads, that makes its clean end cleaner."""
    schedule: ScheduleConfig = project.diffusion.schedule
    if schedule.name == "betas":
        return "lower diffusion.schedule.beta_start"
    if "logsnr_max" not in SCHEDULES[schedule.name].reads:
        return "choose another diffusion.schedule.name, such as cosine"
    return "raise diffusion.schedule.logsnr_max"
