"""Distilling a trained diffusion model: what the student takes over from its teacher, and its task.

The student has the teacher's network, with its weights to begin with, whitening, conditions,
schedule and latents. It learns to reach in a few network calls what its teacher reaches in many.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from latentdiff import config, runs
from latentdiff.config import Values
from latentdiff.diffusion.denoiser import autoguided
from latentdiff.diffusion.distillation import Segment, make_segments
from latentdiff.diffusion.settings import DistillConfig
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore, same_fingerprint
from latentdiff.model.data import TrainingData
from latentdiff.model.distilled import DEFAULTS, Distilled
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_model
from latentdiff.model.spec import ModelSpec
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT
from latentdiff.runs import Run, RunInfo
from latentdiff.training import checkpoint
from latentdiff.training.distillation import OBJECTIVE, DistillationTask

STEPS = 400
"""Default budget: on two models of music, the samples are as good as they get after 350 to 400."""
TAKEN_OVER = {
    "latents": ("keep", "scaling"),
    "condition": None,
    "diffusion": None,
    "network": None,
    "training": ("window",),
}
"""Section -> the settings of it that are the teacher's; None: all."""


def settings_beneath(run: Run, teacher: Path) -> Values:
    """The settings of a distillation that nothing was given for: the teacher's, and the budget.

    Raises UserError if there is no teacher.
    """
    values = _taken_over(_trained_settings(find_teacher(teacher)))
    before = runs.read_run(run.diffusion)
    # A distillation that was begun keeps its own budget.
    if before is None or "distill" not in before.config:
        values["training"].update(steps=STEPS, hours=None)
    return values


def find_teacher(path: Path) -> Path:
    """The checkpoint of a run, a diffusion folder or a file. Raises UserError if there is none."""
    try:
        found = checkpoint.find(path)
    except UserError:
        found = path
    if not found.is_file():
        raise UserError(
            f"there is no trained model to distill in {path}",
            do_this="name a run, a diffusion folder or a .safetensors file with --distill.",
        )
    return found


def prepare_distillation(
    run: Run, project: Project, path: Path, latents: Path | None
) -> tuple[TrainingData, Model]:
    """The student with its data, and the teacher at `path`, on the CPU.

    `latents`: the teacher's, in case they were moved. Raises UserError where the teacher cannot
    be distilled, or the settings or latents are not its own.
    """
    found = find_teacher(path).resolve()
    if run.diffusion.resolve() in found.parents:
        raise UserError(
            f"{run.root} holds the model to distill",
            why="the distilled model would replace it",
            do_this="name another --run for the distilled model.",
        )
    _refuse_other_settings(project, found)
    teacher, store = open_model(run, found, latents, "cpu")
    _check_teacher(teacher)
    _check_latents(store, found)
    _segments(teacher, project.distill)  # levels that it cannot have are refused now
    spec = replace(
        teacher.spec, distilled=Distilled(project.distill.levels, teacher=teacher.as_input())
    )
    student = replace(
        teacher,
        spec=spec,
        denoiser=copy.deepcopy(teacher.denoiser).requires_grad_(True),
        path=None,
        step=0,
        autoguidance=1.0,
        validation_loss=None,
    )
    student.resolve(project.sampling)  # what cannot be sampled later is refused now
    return TrainingData(store, spec.recipe.statistics(store), student), teacher


def make_task(teacher: Model, settings: DistillConfig) -> DistillationTask:
    """The task of a student; the teacher is on the device that computes."""
    variance = teacher.whitening.variance
    interval = DEFAULTS.autoguidance_interval
    return DistillationTask(
        OBJECTIVE,
        teacher.schedule,
        variance=variance,
        segments=_segments(teacher, settings),
        teacher=autoguided(teacher.denoiser, teacher.autoguidance, interval, variance),
        untrained=teacher.denoiser,
    )


def _segments(teacher: Model, settings: DistillConfig) -> tuple[Segment, ...]:
    """The segments of the teacher's ODE. Raises UserError for levels outside of its schedule."""
    try:
        return tuple(make_segments(settings.levels, settings.teacher_calls, teacher.schedule))
    except ValueError as error:
        raise UserError(
            f"distill.levels={list(settings.levels)} do not fit the teacher's schedule",
            why=str(error),
        ) from error


def _trained_settings(path: Path) -> Project:
    """The settings that a checkpoint was trained with, as its run tells, or else its header."""
    info = _training_of(path)
    if info is not None:
        recorded = {key: x for key, x in info.config.items() if key in TAKEN_OVER}
    else:
        spec = ModelSpec.from_header(checkpoint.load_weights(path).header, str(path))
        recorded = {key: x for key, x in spec.to_header().items() if key in TAKEN_OVER}
        recorded["training"] = {"window": spec.window}
    return config.build(Project, recorded, source=str(path))


def _training_of(path: Path) -> RunInfo | None:
    """The training that wrote a checkpoint; None if the file was copied elsewhere."""
    inside = path.parent.name == checkpoint.FOLDER
    return runs.read_run(path.parent.parent, "train-diffusion") if inside else None


def _taken_over(project: Project) -> Values:
    """The settings of `project` that must be the teacher's."""
    sections = project.sections(TAKEN_OVER)
    return {
        name: {key: sections[name][key] for key in keys or sections[name]}
        for name, keys in TAKEN_OVER.items()
    }


def _refuse_other_settings(project: Project, teacher: Path) -> None:
    changed = config.differences(_taken_over(_trained_settings(teacher)), _taken_over(project))
    sound, asked = (each.model_dump() for each in (NO_EXPERIMENT, project.experiment.trained))
    changed += config.differences(sound, asked, "experiment.")
    if changed:
        raise UserError(
            f"{teacher} was trained with other settings:\n    " + "\n    ".join(changed),
            why="a distilled model takes these over from its teacher",
            do_this="drop those settings, or train a teacher with them.",
        )


def _check_teacher(teacher: Model) -> None:
    """Raise UserError for a model that cannot be distilled."""
    spec = teacher.spec
    why, do_this = "", "name a model that was trained without --distill."
    if spec.distilled is not None:
        why = f"it is {spec.distilled.describe()}"
        do_this = "distill its teacher, with other distill.levels."
    elif spec.is_regression:
        why = "it is a regression, which makes a single network call"
    elif spec.experiment.trained.on:
        why = "it was trained with the deliberate mistakes of `experiment`"
    if why:
        raise UserError(f"{teacher.name} cannot be distilled", why=why, do_this=do_this)


def _check_latents(store: LatentStore, teacher: Path) -> None:
    """Raise UserError if the teacher's run says that it was trained on other latents."""
    info = _training_of(teacher)
    recorded = None if info is None else info.fingerprint("latents")
    if recorded is not None and not same_fingerprint(recorded, store.fingerprint()):
        assert info is not None
        raise UserError(
            f"the latents in {store.root} are not those that {teacher} was trained on",
            why=f"it was trained on {info.inputs['latents'].path}",
            do_this="name the teacher's latents with --latents, or another --run that has none.",
        )
