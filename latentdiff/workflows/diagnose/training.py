"""`diagnose training`: why a training went as it did."""

from __future__ import annotations

from pathlib import Path

from latentdiff import runs
from latentdiff.runs import Input, Run
from latentdiff.tracking import METRICS_FILE
from latentdiff.training.fabric import pick_device
from latentdiff.workflows.diagnose import training_report
from latentdiff.workflows.diagnose.causes import findings
from latentdiff.workflows.diagnose.evidence import gather, stage_of
from latentdiff.workflows.diagnose.report import Report, folder_of, tell
from latentdiff.workflows.project import Project

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

    def make() -> Report:
        evidence = gather(run, project, pick_device(project.device), diffusion, latents)
        found = findings(evidence)
        return Report(
            training_report.facts(evidence, found), training_report.table(evidence, found)
        )

    stage = stage_of(diffusion or run.diffusion)
    results = tell(
        NAME,
        make,
        folder_of(run, NAME),
        settings={
            "sampling": project.sampling.model_dump(mode="json"),
            "seed": project.seed,
            "latents": None if latents is None else str(latents),
        },
        inputs={
            "metrics": Input(str(stage / METRICS_FILE), _fingerprint(stage / METRICS_FILE)),
        },
        seed=project.seed,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return [] if results is None else list(results["unseen"])


def _fingerprint(path: Path) -> str:
    return runs.sha256_file(path) if path.exists() else ""
