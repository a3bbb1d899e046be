"""`diagnose training`: why a training went as it did."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from latentdiff import runs
from latentdiff.diagnose.report import Report, run_question
from latentdiff.diagnose.training.causes import findings
from latentdiff.diagnose.training.evidence import gather, stage_of
from latentdiff.diagnose.training.report import text
from latentdiff.diagnose.training.results import Results
from latentdiff.errors import UserError
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_latents
from latentdiff.runs import Input, Run
from latentdiff.tracking import METRICS_FILE
from latentdiff.training import checkpoint
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
    """Check every known cause of a bad training against what the run directory shows.

    `diffusion`: another diffusion folder or checkpoint than the run's; `latents`: others than the
    run's. Returns what could not be examined. Raises UserError where nothing was trained.
    """

    def measure() -> Report[Results]:
        evidence = gather(run, project, pick_device(project.device), diffusion, latents)
        found = findings(evidence)
        return Report(Results.of(evidence, found), text(evidence, found))

    results = run_question(
        NAME,
        Results,
        measure,
        run.diagnosis / NAME,
        settings={"sampling": project.sampling.model_dump(mode="json")},
        inputs=_inputs(run, diffusion or run.diffusion, latents),
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return [] if results is None else results.unseen


def _inputs(run: Run, diffusion: Path, latents: Path | None) -> dict[str, Input]:
    """The stage's inputs that exist: a run without checkpoint or latents still has its metrics."""
    inputs, stage = {}, stage_of(diffusion)
    metrics = stage / METRICS_FILE
    if metrics.exists():
        inputs["metrics"] = Input(str(metrics), runs.sha256_file(metrics))
    with suppress(UserError):
        weights = checkpoint.find(diffusion)
        inputs["diffusion"] = Input(str(weights), runs.sha256_file(weights))
    with suppress(UserError):
        store = open_latents(run, latents, stage)
        inputs["latents"] = Input(str(store.root.resolve()), store.fingerprint())
    return inputs
