"""Whether what a model leaves of its noise is more than the decoder bears."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from latentdiff.diagnose import report
from latentdiff.diagnose.noise_ladder import measure as noise_ladder
from latentdiff.diffusion.loss import Objective
from latentdiff.evaluation.tolerance import crossing, error_of
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.data import TrainingData
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.training.validation import Validation

log = logging.getLogger(__name__)

WHAT_TO_DO = "Train longer, or let it end cleaner: diffusion.schedule.logsnr_max"


def tell(run: Run, project: Project, data: TrainingData, found: Validation | None) -> None:
    """Say how the errors at the validated levels compare with what `diagnose noise-ladder` left.

    Nothing where it was not run on these latents, in this run or beside their store; nor with
    deliberate mistakes, where losses need not be errors of the latents.
    """
    std = decoder_bears(run, data.store, data.model.whitening)
    if std is None or found is None or project.experiment.on:
        return
    objective = Objective.from_config(project.diffusion)
    errors = errors_of(objective, found.logsnr, found.losses)
    said = (
        f"residual error at the cleanest level, log-SNR {found.logsnr[0]:+.1f}: {errors[0]:.2g} "
        f"deviations of the latents; the decoder bears {std:.2g} (diagnose noise-ladder)"
    )
    if errors[0] > std:
        log.warning("%s: what it leaves of the noise will be heard. %s", said, WHAT_TO_DO)
        return
    log.info("%s: what it leaves of the noise is not heard", said)
    known = errors_of(objective, found.logsnr, found.baselines)
    at, without = (crossing(found.logsnr, e, std) for e in (errors, known))
    if at is None:
        log.info("its estimates are that clean at every validated level")
    elif without is not None:
        log.info(
            "its estimates are that clean from log-SNR %+.1f on (knowing variances only: %+.1f)",
            at,
            without,
        )


def errors_of(objective: Objective, logsnr: list[float], losses: list[float]) -> list[float]:
    """Root mean square errors of the latents behind the losses at these levels."""
    pairs = zip(losses, logsnr, strict=True)
    return [error_of(objective, loss, level) for loss, level in pairs]


def decoder_bears(run: Run, store: LatentStore, whitening: Whitening) -> float | None:
    """Deviations of whitened latents, from the run's own noise ladder or that beside the store.

    None where there is none, or where other directions were kept.
    """
    for owner in (run, Run(store.root.parent)):
        path = report.folder_of(owner, noise_ladder.NAME) / f"{noise_ladder.NAME}.json"
        found = _read(path)
        same = (found.get("kept"), found.get("dimensions"))
        if same == (whitening.channels, whitening.dimensions):
            value = found["tolerance_std"]
            return None if value is None else float(value)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
