"""`train-diffusion`: trains a diffusion model on a store of latents; logs losses with baselines."""

from __future__ import annotations

import logging
from pathlib import Path

from latentdiff.model.project import Project
from latentdiff.model.train import plan_training, train
from latentdiff.model.train_log import log_outcome, log_plan
from latentdiff.runs import Run
from latentdiff.training.fabric import Launch, make_fabric

log = logging.getLogger(__name__)


def train_diffusion(
    run: Run,
    project: Project,
    *,
    latents: Path | None = None,
    distill: Path | None = None,
    devices: str | int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Train on `latents` (or the run's own) until the budget is used up; again: resumes.

    `distill`: the run, diffusion folder or checkpoint to distill, on its own latents. `devices`,
    `num_nodes`, `strategy`: see `Launch`.
    """
    launch = Launch(project.device, devices, num_nodes, strategy)
    fabric = make_fabric(launch, project.training.precision)
    plan = plan_training(run, project, latents, distill)
    log_plan(plan)
    if dry_run:
        log.info("dry run: nothing was written; it would train in %s", run.diffusion)
        return []
    outcome = train(plan, fabric, overwrite=overwrite)
    if outcome is not None:
        log_outcome(plan, outcome)
    return []
