"""What a run directory shows of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentdiff import config, runs, tracking
from latentdiff.diagnose.training.causes_files import uncertain
from latentdiff.diagnose.training.curve import Curve
from latentdiff.diagnose.training.measure import ModelMeasurements, measure_model
from latentdiff.errors import UserError
from latentdiff.latents.store import same_fingerprint
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_model
from latentdiff.runs import Run


@dataclass(frozen=True)
class RunEvidence:
    """Everything that the findings are based on."""

    curve: Curve
    failure: str | None
    """Why the training ended, if it failed."""
    settings: Project
    """The settings of the training, with today's `sampling`."""
    measured: ModelMeasurements | None
    """None without a checkpoint or without latents."""
    unseen: list[str]
    """Checks that could not be made, each with the reason."""
    doubts: list[str]
    """What was measured, but on too little to say anything."""


def gather(
    run: Run, project: Project, device: str, diffusion: Path | None, latents: Path | None
) -> RunEvidence:
    """The evidence of a run, or of another `diffusion` folder or checkpoint.

    Raises UserError where nothing was trained there.
    """
    stage = stage_of(diffusion or run.diffusion)
    info = runs.read_run(stage, "train-diffusion")
    if info is None:
        raise UserError(
            f"there is no training in {stage}",
            do_this="run `latentdiff train-diffusion`, or name another training with --diffusion.",
        )
    measured, unseen, doubts, settings = None, [], list[str](), project
    try:
        trained = config.build(Project, info.config, source=str(stage))
        settings = trained.model_copy(update={"sampling": project.sampling})
    except UserError as error:
        unseen.append(f"the settings of the training: {error.what}")
    recorded = info.fingerprint("latents")
    try:
        model, store = open_model(run, diffusion, latents, device)
        same_files = None
        if recorded is not None:
            same_files = same_fingerprint(recorded, store.fingerprint())
        measured = measure_model(model, store, settings, same_files, stage)
    except UserError as error:
        unseen.append(f"the model on its latents: {error.what}")
    if measured is not None and measured.held_out is None:
        unseen.append("overfitting: no file is held out")
    if measured is not None and measured.held_out is not None:
        doubt = uncertain(measured.held_out, measured.held_out_losses)
        doubts += [] if doubt is None else [doubt]
    curve = Curve.of(tracking.read_metrics(stage))
    return RunEvidence(curve, info.error, settings, measured, unseen, doubts)


def stage_of(path: Path) -> Path:
    """The diffusion stage of a run directory, a diffusion folder, or a checkpoint file."""
    if path.suffix == ".safetensors":
        return path.parent.parent
    return path / "diffusion" if (path / "diffusion").is_dir() else path
