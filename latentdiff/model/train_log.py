"""What a training says of itself before its first step, and after its last."""

from __future__ import annotations

import logging

from latentdiff.model import residual
from latentdiff.model.train import TrainingPlan
from latentdiff.networks.build import describe
from latentdiff.training import verdict
from latentdiff.training.trainer import TrainingOutcome

log = logging.getLogger(__name__)


def log_plan(plan: TrainingPlan) -> None:
    """Log what is to be trained, and what is wrong with it."""
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
    if spec.distilled is not None:
        calls = plan.project.distill.teacher_calls
        log.info("%s, each in place of %d calls", spec.distilled.describe(), calls)
        log.info("skill 0: a single call of the teacher in their place; 1: its samples")
    log.info(
        "network: %s (window %d frames = %.1f s)",
        describe(data.model.denoiser.network),  # type: ignore[arg-type]
        settings.window,
        spec.seconds(settings.window),
    )


def log_outcome(plan: TrainingPlan, outcome: TrainingOutcome) -> None:
    """Log the losses of a training, and what they mean."""
    best, distilled = outcome.best, plan.teacher is not None
    in_words = verdict.distilled if distilled else verdict.skill
    if best is None:
        log.info(
            "done at step %d: %s on the training files (%s)",
            outcome.step,
            verdict.short(outcome.training.metrics()),
            in_words(outcome.training.skill),
        )
    else:
        log.info(
            "done at step %d; best at step %s on held-out files: %s (%s)",
            outcome.step,
            outcome.best_step,
            verdict.short(best.metrics()),
            in_words(best.skill),
        )
        if best.conditioning_gain is not None:
            gain = best.conditioning_gain
            log.info("conditioning gain %.2f: %s", gain, verdict.conditioning(gain))
        if len(best.gains) > 1:
            for kind, one in best.gains.items():
                log.info("  %s alone %.2f: %s", kind, one, verdict.conditioning(one))
    log.info("checkpoint: %s; next: latentdiff sample", outcome.path)
    # Losses of a distilled model are distances to its teacher's samples.
    if distilled:
        return
    if best is not None and (warning := verdict.form(best)) is not None:
        log.warning("%s", warning)
    residual.log_residual_noise(plan.run, plan.project, plan.data, best)
