"""`train-diffusion`: a store of latents -> a diffusion model, each loss beside its baseline."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentdiff import runs
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.latents.store import LatentStore
from latentdiff.model import residual
from latentdiff.model.calibrate import calibrate
from latentdiff.model.data import Data, check, prepare
from latentdiff.model.demos import Subject, demos_of
from latentdiff.model.model import header_of, make_denoiser, make_task
from latentdiff.model.project import Project, begin
from latentdiff.networks.build import describe
from latentdiff.notebook.experiments import descriptions as told
from latentdiff.notebook.experiments.settings import SamplingExperiment
from latentdiff.runs import Input, Run, Stage
from latentdiff.tracking import Tracker, tensorboard_hint
from latentdiff.training import checkpoint, verdict
from latentdiff.training.data import Windows
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.trainer import Outcome, Trainer

if TYPE_CHECKING:
    from latentdiff.training.fabric import Fabric

log = logging.getLogger(__name__)

SECTIONS = ("latents", "condition", "diffusion", "network", "training")
FIXED = ("window", "validation_windows", "validation_levels")
"""Of `training`: changing these would make validation losses incomparable within a run."""
MAY_CHANGE = (
    *(f"training.{name}" for name in TrainingConfig.model_fields if name not in FIXED),
    "latents.keep_std",
    "latents.chunk_seconds",
    "latents.batch",
    *(f"experiment.sampling.{name}" for name in SamplingExperiment.model_fields),
)


def train_diffusion(
    run: Run,
    project: Project,
    *,
    latents: Path | None = None,
    devices: str | int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Train on `latents` (or the run's own) until the budget is spent; the same command resumes.

    `devices`, `num_nodes`, `strategy`: see `Launch`. Of several processes the first alone holds
    the stage, writes and speaks.
    """
    launch = Launch(project.device, devices, num_nodes, strategy)
    fabric = make_fabric(launch, project.training.precision)
    store = LatentStore.open(latents or run.latents)
    check(store, project.training)
    data = prepare(store, project)
    denoiser = make_denoiser(
        project.network,
        project.diffusion,
        channels=data.whitening.channels,
        features=0 if data.standardiser is None else len(data.standardiser.mean),
        labels=len(data.labels),
        seed=project.seed,
        variance=data.whitening.variance,
        experiment=project.experiment,
    )
    _announce(data, project, denoiser)
    if dry_run:
        log.info("dry run: nothing was written; it would train in %s", run.diffusion)
        return []
    # From here on once in each process.
    fabric.launch()
    group = ProcessGroup(fabric)
    with ExitStack() as stack:
        stage = group.lead(lambda: _open_stage(stack, run, project, data, overwrite))
        # None too where this process does not lead.
        if not group.gather(stage is not None)[0]:
            return []
        outcome = _train(run, project, data, denoiser, fabric)
        if stage is not None:
            stage.record(**_result(outcome))
            _compare(run, project, outcome)
    _conclude(outcome)
    residual.log_residual_noise(run, project, data, outcome.best)
    return []


def _open_stage(
    stack: ExitStack, run: Run, project: Project, data: Data, overwrite: bool
) -> Stage | None:
    """The stage, entered; None where it is done."""
    inputs = {"latents": Input(str(data.store.root.resolve()), data.store.fingerprint())}
    if data.codec.fingerprint:
        inputs["codec"] = Input(data.codec_path, data.codec.fingerprint)
    labels = data.condition.labels
    if labels is not None:
        inputs["condition.labels"] = Input(labels, runs.sha256_file(Path(labels)))
    stage = begin(
        run,
        project,
        run.diffusion,
        "train-diffusion",
        sections=_sections(project),
        inputs=inputs,
        # A run that never came to a checkpoint has nothing to protect from other settings.
        overwrite=overwrite or not any((run.diffusion / checkpoint.FOLDER).glob("*")),
        may_change=MAY_CHANGE,
    )
    return None if stage is None else stack.enter_context(stage)


def _sections(project: Project) -> tuple[str, ...]:
    """An experiment that is off is not spoken of: older runs know of none."""
    return (*SECTIONS, "experiment") if project.experiment.trained.on else SECTIONS


def _train(run: Run, project: Project, data: Data, denoiser: Denoiser, fabric: Fabric) -> Outcome:
    train = data.windows("train", project.training, run.diffusion)
    assert train is not None  # `check` saw the files
    trainer = _trainer(run, project, data, train, denoiser, fabric)
    _tell_baselines(trainer)
    log.info("%s", tensorboard_hint(run.root.parent))
    outcome = trainer.fit()
    if count := project.training.calibration_samples:
        device, sampling = str(fabric.device), project.sampling
        ProcessGroup(fabric).lead(
            lambda: calibrate(outcome.path, train.spread(count), sampling, device)
        )
    return outcome


def _announce(data: Data, project: Project, denoiser: Denoiser) -> None:
    settings = project.training
    for warning in told.warnings(project.experiment):
        log.warning("%s", warning)
    store, frame = data.store, data.codec.hop / data.codec.sample_rate
    log.info("latents: %s", data.statistics.describe(project.latents.keep))
    for split in ("train", "validation"):
        entries = store.of(split)
        frames = sum(entry.frames for entry in entries)
        log.info(
            "%s: %d files, %d frames, %.1f minutes",
            split,
            len(entries),
            frames,
            frames * frame / 60,
        )
    if not store.of("validation"):
        log.warning(
            "no file is held out: losses are told on the training files only, so learning by "
            "heart cannot be seen, and the last weights are kept instead of the best"
        )
    short = sum(entry.frames < settings.window for entry in store.of("train"))
    if short:
        log.info("%d training files are shorter than a window and are padded", short)
    network = describe(denoiser.network)  # type: ignore[arg-type]
    log.info(
        "network: %s (window %d frames = %.1f s)", network, settings.window, settings.window * frame
    )


def _trainer(
    run: Run, project: Project, data: Data, train: Windows, denoiser: Denoiser, fabric: Fabric
) -> Trainer:
    settings, diffusion, experiment = project.training, project.diffusion, project.experiment
    task = make_task(diffusion, data.whitening.variance, experiment)
    for warning in task.schedule.warnings:
        log.warning("%s", warning)
    subject = Subject(
        data.store,
        data.whitening,
        task.schedule,
        data.codec,
        data.standardiser,
        data.labels,
        experiment,
    )
    return Trainer(
        denoiser,
        task,
        train,
        data.windows("validation", settings, run.diffusion),
        settings,
        run.diffusion,
        constants=data.constants(),
        header=header_of(
            project.network,
            diffusion,
            data.condition,
            data.codec,
            data.codec_path,
            data.labels,
            settings.window,
            experiment,
        ),
        condition_dropout=data.condition.dropout,
        seed=project.seed,
        fabric=fabric,
        frame_rate=data.codec.sample_rate / data.codec.hop,
        demo=demos_of(run.diffusion, project, subject, data.codec_path),
    )


def _tell_baselines(trainer: Trainer) -> None:
    known = trainer.references
    log.info(
        "losses of models that learned nothing: predicts zero %.4f; knows the variance of each "
        "channel %.4f (skill 0); knows its spectrum too %.4f (skill %.2f)",
        known.zero,
        known.variance,
        known.spectrum,
        known.learnable,
    )


def _result(outcome: Outcome) -> dict[str, Any]:
    values = outcome.training if outcome.best is None else outcome.best.metrics()
    kept = ("loss", "baseline", "skill", "conditioning_gain")
    return {
        "step": outcome.step,
        "best_step": outcome.best_step,
        "validated": outcome.best is not None,
        **{key: round(values[key], 6) for key in kept if key in values},
        "checkpoint": str(outcome.path),
    }


def _compare(run: Run, project: Project, outcome: Outcome) -> None:
    """Settings and results side by side, for TensorBoard's table of runs."""
    numbers = {key: float(x) for key, x in _result(outcome).items() if isinstance(x, (int, float))}
    wandb = project.training.wandb
    with Tracker(run.diffusion, resume_step=outcome.step, wandb=wandb) as tracker:
        tracker.hparams(project.sections(_sections(project)), numbers)


def _conclude(outcome: Outcome) -> None:
    best = outcome.best
    if best is None:
        log.info(
            "done at step %d: %s on the training files (%s)",
            outcome.step,
            verdict.short(outcome.training),
            verdict.skill(outcome.training["skill"]),
        )
    else:
        log.info(
            "done at step %d; best at step %s on held-out files: %s (%s)",
            outcome.step,
            outcome.best_step,
            verdict.short(best.metrics()),
            verdict.skill(best.skill),
        )
        if best.conditioning_gain is not None:
            gain = best.conditioning_gain
            log.info("conditioning gain %.2f: %s", gain, verdict.conditioning(gain))
    log.info("checkpoint: %s; next: latentdiff sample", outcome.path)
