"""Training the diffusion model of a run: a store of latents -> checkpoints in the run directory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff import config, runs
from latentdiff.config import Values
from latentdiff.diffusion.denoiser import ConditionDropout
from latentdiff.diffusion.settings import DistillConfig
from latentdiff.errors import UserError
from latentdiff.evaluation.leaks import find_leaks, refuse_leaks
from latentdiff.latents.store import LatentStore
from latentdiff.model.calibrate import calibrate
from latentdiff.model.data import TrainingData, fit_window, prepare, windows_of
from latentdiff.model.demos import demos_of
from latentdiff.model.distillation import make_task, prepare_distillation
from latentdiff.model.model import Model
from latentdiff.model.project import Project, begin
from latentdiff.notebook.experiments.settings import SAMPLING_KEYS
from latentdiff.runs import Input, Run, Stage
from latentdiff.tracking import Tracker, tensorboard_hint
from latentdiff.tracking.wandb import require_wandb
from latentdiff.training import checkpoint
from latentdiff.training.data import Windows
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import Task
from latentdiff.training.trainer import Trainer, TrainingOutcome

if TYPE_CHECKING:
    from latentdiff.training.fabric import Fabric

log = logging.getLogger(__name__)

SECTIONS = ("latents", "condition", "diffusion", "network", "training")
FIXED = ("window", "validation_windows", "validation_levels")
"""Settings of `training` that cannot change within a run: validation losses would no longer be
comparable."""
MAY_CHANGE = (
    *(f"training.{name}" for name in TrainingConfig.model_fields if name not in FIXED),
    "latents.keep_std",
    "latents.chunk_seconds",
    "latents.batch",
    *SAMPLING_KEYS,
)


@dataclass(frozen=True)
class TrainingPlan:
    """A training that is ready to start."""

    run: Run
    project: Project
    """The settings, with a `training.window` that the recordings are long enough for."""
    data: TrainingData
    teacher: Model | None = None
    """The model to distill; None: the latents alone are learned from."""

    @property
    def sections(self) -> tuple[str, ...]:
        """Sections of the project that decide what is trained."""
        distill = () if self.teacher is None else ("distill",)
        return (*SECTIONS, *distill, *self.project.experiment.trained.to_section())


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training as stored in `run.json`."""

    step: int
    """The last step."""
    best_step: int | None
    """The step of the weights to sample from; None without held-out files."""
    validated: bool
    """Whether the losses are of held-out files, not of the last training steps."""
    loss: float
    baseline: float
    """Loss of a model that knows variances only; of a distilled model before its first step."""
    skill: float
    """1 - loss / baseline."""
    conditioning_gain: float | None
    """Relative rise of the loss with wrong conditions; None without a condition or held-out files.
    """
    gains: dict[str, float]
    """Kind of condition -> relative rise of the loss with that kind alone being wrong."""
    checkpoint: str
    """Path of the weights to sample from."""

    @classmethod
    def of(cls, outcome: TrainingOutcome) -> TrainingResult:
        """The losses of the best weights or, without held-out files, of the last training steps."""
        losses = outcome.training if outcome.best is None else outcome.best
        gain = None if outcome.best is None else outcome.best.conditioning_gain
        return cls(
            step=outcome.step,
            best_step=outcome.best_step,
            validated=outcome.best is not None,
            loss=round(losses.loss, 6),
            baseline=round(losses.baseline, 6),
            skill=round(losses.skill, 6),
            conditioning_gain=None if gain is None else round(gain, 6),
            gains={} if outcome.best is None else _rounded(outcome.best.gains),
            checkpoint=str(outcome.path),
        )

    def to_json(self) -> Values:
        """The result as `run.json` stores it: without gains where there is no condition."""
        values = asdict(self)
        if self.conditioning_gain is None:
            del values["conditioning_gain"], values["gains"]
        return values


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in values.items()}


def plan_training(
    run: Run, project: Project, latents: Path | None = None, distill: Path | None = None
) -> TrainingPlan:
    """Prepare to train on `latents` (or the run's own), or to distill the model in `distill`.

    Writes nothing. Raises UserError if the latents, the teacher and the settings do not fit
    together, held-out recordings are also in the training files, or Weights & Biases is asked for
    and not installed.
    """
    if project.training.wandb is not None:
        require_wandb()
    teacher: Model | None = None
    if distill is not None:
        data, teacher = prepare_distillation(run, project, distill, latents)
        project = fit_window(data.store, project)
    else:
        _refuse_unread(project)
        store = LatentStore.open(latents or run.latents)
        if (validation := project.training.validation_latents) is not None:
            store = store.with_validation(Path(validation))
        project = fit_window(store, project)
        data = prepare(store, project)
    leaks = find_leaks(data.store, data.model.whiten, data.model.codec.frame_rate)
    refuse_leaks(leaks, allowed=project.training.leaks == "allow")
    return TrainingPlan(run, project, data, teacher)


def _refuse_unread(project: Project) -> None:
    default = DistillConfig()
    changed = config.differences(default.model_dump(), project.distill.model_dump(), "distill.")
    if changed:
        raise UserError(
            "settings of `distill` without a model to distill:\n    " + "\n    ".join(changed),
            why="they are read with --distill only",
            do_this="name the model with --distill, or drop the settings.",
        )


def train(
    plan: TrainingPlan, fabric: Fabric | None = None, *, overwrite: bool = False
) -> TrainingOutcome | None:
    """Train until the budget is used up; continues from the last checkpoint if there is one.

    `fabric`: the devices, not yet launched; None: the project's device. Of several processes only
    the first one holds the stage and writes files. Returns None if the run was already done.
    """
    project = plan.project
    fabric = fabric or make_fabric(Launch(project.device), project.training.precision)
    # From here on the code runs once in each process.
    fabric.launch()
    group = ProcessGroup(fabric)
    with ExitStack() as stack:
        stage = group.lead(lambda: _open_stage(stack, plan, overwrite))
        # `stage` is None in processes that do not lead, too: the leader's decides for all.
        if not group.gather(stage is not None)[0]:
            return None
        outcome = _fit(plan, fabric)
        if stage is not None:
            result = TrainingResult.of(outcome).to_json()
            stage.record(**result)
            _track_result(plan, outcome.step, result)
    return outcome


def _open_stage(stack: ExitStack, plan: TrainingPlan, overwrite: bool) -> Stage | None:
    """The stage, entered; None if it is already done."""
    run, spec = plan.run, plan.data.model.spec
    store = plan.data.store
    inputs = {"latents": Input(str(store.root.resolve()), store.fingerprint())}
    if (validation := plan.project.training.validation_latents) is not None:
        there = LatentStore.open(Path(validation))
        inputs["validation"] = Input(str(there.root.resolve()), there.fingerprint())
    if spec.codec.fingerprint:
        inputs["codec"] = Input(spec.codec_path, spec.codec.fingerprint)
    if spec.distilled is not None:
        inputs["teacher"] = spec.distilled.teacher
    labels = spec.condition.labels
    if labels is not None:
        inputs["condition.labels"] = Input(labels, runs.sha256_file(Path(labels)))
    stage = begin(
        run,
        plan.project,
        run.diffusion,
        "train-diffusion",
        sections=plan.sections,
        inputs=inputs,
        # A run without a checkpoint has nothing that other settings could spoil.
        overwrite=overwrite or not any((run.diffusion / checkpoint.FOLDER).glob("*")),
        may_change=MAY_CHANGE,
    )
    return None if stage is None else stack.enter_context(stage)


def _fit(plan: TrainingPlan, fabric: Fabric) -> TrainingOutcome:
    """Train, and calibrate the weights to sample from unless they are distilled."""
    train, held_out = (_windows(plan, split) for split in ("train", "validation"))
    assert train is not None  # `fit_window` saw the files
    trainer = _trainer(plan, train, held_out, fabric)
    _log_baselines(trainer)
    log.info("%s", tensorboard_hint(plan.run.root.parent))
    outcome = trainer.fit()
    count = plan.project.training.calibration_samples
    # A distilled model has learned the autoguidance of its teacher.
    if count and plan.teacher is None:
        device, sampling = str(fabric.device), plan.project.sampling
        ProcessGroup(fabric).lead(
            lambda: calibrate(outcome.path, train.spread(count), sampling, device)
        )
    return outcome


def _windows(plan: TrainingPlan, split: str) -> Windows | None:
    memory_gb, scratch = plan.project.training.memory_gb, plan.run.diffusion
    data = plan.data
    return windows_of(data.model, data.store, split, memory_gb=memory_gb, scratch=scratch)


def _trainer(
    plan: TrainingPlan, train: Windows, held_out: Windows | None, fabric: Fabric
) -> Trainer:
    run, project, model = plan.run, plan.project, plan.data.model
    return Trainer(
        model.denoiser,
        _task(plan, fabric),
        train,
        held_out,
        project.training,
        run.diffusion,
        constants=model.constants(),
        header=model.header(),
        condition_dropout=ConditionDropout(model.condition.dropout, model.condition.dropouts),
        seed=project.seed,
        fabric=fabric,
        frame_rate=model.codec.frame_rate,
        demo=demos_of(run, project, model, plan.data.store),
    )


def _task(plan: TrainingPlan, fabric: Fabric) -> Task:
    teacher = plan.teacher
    if teacher is None:
        return plan.data.model.task()
    on_device = replace(teacher, denoiser=teacher.denoiser.to(fabric.device))
    return make_task(on_device, plan.project.distill)


def _log_baselines(trainer: Trainer) -> None:
    known = trainer.baselines
    if known is None:
        return
    log.info(
        "losses of untrained models: predicts zero %.4f; knows the variance of each channel %.4f "
        "(skill 0); knows its spectrum too %.4f (skill %.2f)",
        known.zero,
        known.variance,
        known.spectrum,
        known.learnable,
    )


def _track_result(plan: TrainingPlan, step: int, result: Values) -> None:
    """Settings and results side by side, for TensorBoard's table of runs."""
    numbers = {key: float(x) for key, x in result.items() if isinstance(x, (int, float))}
    wandb = plan.project.training.wandb
    with Tracker(plan.run.diffusion, resume_step=step, wandb=wandb) as tracker:
        tracker.hparams(plan.project.sections(plan.sections), numbers)
