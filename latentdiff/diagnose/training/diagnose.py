"""`diagnose training`: why a training went as it did."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from latentdiff import runs
from latentdiff.diagnose.report import Report, run_question
from latentdiff.diagnose.training import report as training_report
from latentdiff.diagnose.training.causes import findings
from latentdiff.diagnose.training.evidence import gather, stage_of
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.project import Project
from latentdiff.model.resolve import latents_path
from latentdiff.runs import Input, Run
from latentdiff.tracking import METRICS_FILE
from latentdiff.training.fabric import pick_device

NAME = "training"


def diagnose_training(
    run: Run,
    project: Project,
    *,
    diffusion: Path | None = None,
    latents: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Hold every known cause of a bad training to what the run directory shows.

    `diffusion`: another diffusion folder or checkpoint than the run's; `latents`: other ones than
    it was trained on. Returns what could not be looked at.
    """

    def make() -> Report[dict[str, Any]]:
        evidence = gather(run, project, pick_device(project.device), diffusion, latents)
        found = findings(evidence)
        facts = training_report.facts(evidence, found)
        return Report(facts, training_report.table(evidence, found))

    results = run_question(
        NAME,
        dict,
        make,
        run.diagnosis / NAME,
        settings={"sampling": project.sampling.model_dump(mode="json")},
        inputs=_inputs(run, stage_of(diffusion or run.diffusion), latents),
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return [] if results is None else list(results["unseen"])


def _inputs(run: Run, stage: Path, latents: Path | None) -> dict[str, Input]:
    """As far as they are there: a run without latents still has its metrics."""
    found, metrics = {}, stage / METRICS_FILE
    if metrics.exists():
        found["metrics"] = Input(str(metrics), runs.sha256_file(metrics))
    with suppress(UserError):
        store = LatentStore.open(latents_path(run, latents, stage))
        found["latents"] = Input(str(store.root.resolve()), store.fingerprint())
    return found
