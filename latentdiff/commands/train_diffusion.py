"""`train-diffusion`: a store of latents -> a diffusion model, each loss beside its baseline."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentdiff import runs
from latentdiff.latents.store import LatentStore
from latentdiff.model import residual
from latentdiff.model.calibrate import calibrate
from latentdiff.model.data import TrainingData, fit_window, prepare, windows_of
from latentdiff.model.demos import demos_of
from latentdiff.model.project import Project, begin
from latentdiff.networks.build import describe
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
    project = fit_window(store, project)
    data = prepare(store, project)
    _announce(data, project)
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
        outcome = _train(run, project, data, fabric)
        if stage is not None:
            stage.record(**_result(outcome))
            _compare(run, project, outcome)
    _conclude(outcome)
    residual.log_residual_noise(run, project, data, outcome.best)
    return []


def _open_stage(
    stack: ExitStack, run: Run, project: Project, data: TrainingData, overwrite: bool
) -> Stage | None:
    """The stage, entered; None where it is done."""
    inputs = {"latents": Input(str(data.store.root.resolve()), data.store.fingerprint())}
    spec = data.model.spec
    if spec.codec.fingerprint:
        inputs["codec"] = Input(spec.codec_path, spec.codec.fingerprint)
    labels = spec.condition.labels
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
    """Without an experiment that is off: older runs know of none."""
    return (*SECTIONS, "experiment") if project.experiment.trained.on else SECTIONS


def _train(run: Run, project: Project, data: TrainingData, fabric: Fabric) -> Outcome:
    train, held_out = (
        windows_of(
            data.model,
            data.store,
            split,
            memory_gb=project.training.memory_gb,
            scratch=run.diffusion,
        )
        for split in ("train", "validation")
    )
    assert train is not None  # `fit_window` saw the files
    trainer = _trainer(run, project, data, train, held_out, fabric)
    _log_baselines(trainer)
    log.info("%s", tensorboard_hint(run.root.parent))
    outcome = trainer.fit()
    if count := project.training.calibration_samples:
        device, sampling = str(fabric.device), project.sampling
        ProcessGroup(fabric).lead(
            lambda: calibrate(outcome.path, train.spread(count), sampling, device)
        )
    return outcome


def _announce(data: TrainingData, project: Project) -> None:
    settings, store, spec = project.training, data.store, data.model.spec
    for warning in spec.recipe.warnings:
        log.warning("%s", warning)
    log.info("latents: %s", data.statistics.describe(project.latents.keep))
    for split in ("train", "validation"):
        entries = store.of(split)
        frames = sum(entry.frames for entry in entries)
        minutes = spec.seconds(frames) / 60
        log.info("%s: %d files, %d frames, %.1f minutes", split, len(entries), frames, minutes)
    if not store.of("validation"):
        log.warning(
            "no file is held out: losses are measured on the training files only, so overfitting "
            "cannot be seen, and the last weights are kept instead of the best"
        )
    short = sum(entry.frames < settings.window for entry in store.of("train"))
    if short:
        log.info("%d training files are shorter than a window and are padded", short)
    network = describe(data.model.denoiser.network)  # type: ignore[arg-type]
    log.info(
        "network: %s (window %d frames = %.1f s)",
        network,
        settings.window,
        spec.seconds(settings.window),
    )


def _trainer(
    run: Run,
    project: Project,
    data: TrainingData,
    train: Windows,
    held_out: Windows | None,
    fabric: Fabric,
) -> Trainer:
    model = data.model
    return Trainer(
        model.denoiser,
        model.task(),
        train,
        held_out,
        project.training,
        run.diffusion,
        constants=model.constants(),
        header=model.spec.to_header(),
        condition_dropout=model.condition.dropout,
        seed=project.seed,
        fabric=fabric,
        frame_rate=model.codec.sample_rate / model.codec.hop,
        demo=demos_of(run, project, model, data.store),
    )


def _log_baselines(trainer: Trainer) -> None:
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
