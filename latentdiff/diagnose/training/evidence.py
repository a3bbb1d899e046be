"""What a run directory shows of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentdiff import runs, tracking
from latentdiff.diagnose.training.curve import Curve
from latentdiff.diagnose.training.measure import Measured, look
from latentdiff.errors import UserError
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_model
from latentdiff.runs import Run


@dataclass(frozen=True)
class Evidence:
    """All that findings rest on."""

    curve: Curve
    failure: str | None
    """Why the training ended, where it failed."""
    clip: float | None
    """training.gradient_clip; None = not clipped, or not known."""
    measured: Measured | None
    """None where there is no checkpoint, or the latents are gone."""
    unseen: list[str]
    """What could not be looked at, and why."""


def gather(
    run: Run, project: Project, device: str, diffusion: Path | None, latents: Path | None
) -> Evidence:
    """Of a run, or of another `diffusion` folder or checkpoint, on its latents or other ones.

    Raises UserError where nothing was trained there.
    """
    stage = stage_of(diffusion or run.diffusion)
    info = runs.read_run(stage, "train-diffusion")
    if info is None:
        raise UserError(
            f"there is no training in {stage}",
            do_this="begin one: `latentdiff train-diffusion`; --diffusion names another.",
        )
    measured, unseen = None, []
    try:
        model, store = open_model(run, diffusion, latents, device)
        measured = look(model, store, info, project.sampling, stage)
    except UserError as error:
        unseen.append(f"the model on its latents: {error.what}")
    if measured is not None and measured.held_out is None:
        unseen.append("learning by heart: no file is held out")
    return Evidence(
        Curve.of(tracking.read_metrics(stage)),
        info.error,
        info.config.get("training", {}).get("gradient_clip"),
        measured,
        unseen,
    )


def stage_of(path: Path) -> Path:
    """The diffusion stage that a run, its diffusion folder, or a checkpoint file stands for."""
    if path.suffix == ".safetensors":
        return path.parent.parent
    return path / "diffusion" if (path / "diffusion").is_dir() else path
