"""`train-rave`: a dataset -> a RAVE codec with checkpoints `last` and `best`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from latentdiff import runs, tracking
from latentdiff.errors import UserError
from latentdiff.model.project import Project, begin, check_upstream
from latentdiff.rave.database import DATA_FILE, RaveDatabase
from latentdiff.rave.locate import Weights, find_weights
from latentdiff.rave.manifest import MANIFEST_FILE
from latentdiff.rave.result import RaveTrainingResult
from latentdiff.rave.train import RaveTraining, RaveTrainingPlan
from latentdiff.runs import Input, Run

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "rave.steps",
    "rave.hours",
    "rave.validate_every",
    "rave.checkpoint_every",
    "rave.workers",
)
"""Settings that may differ when a run is continued."""


def train_rave(
    run: Run,
    project: Project,
    *,
    dataset: Path | None = None,
    ckpt: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Train RAVE on `dataset` (None: the run's own) into the run's `rave` folder.

    The same command again continues, also with a raised budget. `ckpt` (None: as `rave.start`
    says): start a new run from the weights of this checkpoint, or of the newest one of this RAVE
    run; its config.gin, where there is one, decides the architecture. `resume`: go
    on with its training, step and optimisers too. Nothing is ever skipped, so the list is empty.
    Raises UserError before the first step where the settings cannot work.
    """
    source = dataset or run.dataset
    if dataset is None:
        check_upstream(project, [source])
    _check_dataset(source, project)
    inputs = {"dataset": Input(str(source), _fingerprint(source))}
    weights = _initial_weights(project.rave.start, ckpt, resume)
    if weights is not None:
        inputs["weights"] = Input(str(weights.checkpoint), _file_fingerprint(weights.checkpoint))
    stage = begin(
        run,
        project,
        run.rave,
        "train-rave",
        sections=["rave"],
        inputs=inputs,
        overwrite=overwrite,
        may_change=MAY_CHANGE,
    )
    if stage is None:
        return []
    training = RaveTraining(
        project.rave,
        source,
        run.rave,
        seed=project.seed,
        device=project.device,
        initial_weights=weights,
        resume=not overwrite,
    )
    with training:
        if dry_run:
            _log_plan(training.plan, project, run)
            return []
        with stage:
            _log_plan(training.plan, project, run)
            log.info(tracking.tensorboard_hint(run.root.parent))
            result = _fit(training)
            stage.record(**asdict(result))
            _report(result)
    return []


def _check_dataset(source: Path, project: Project) -> None:
    """Raise UserError if a dataset's sample rate or channels differ from the settings."""
    if runs.read_run(source) is not None:
        runs.require_done(source, "dataset", "preprocess")
    database = RaveDatabase(source)
    if not (source / MANIFEST_FILE).exists():
        log.warning(
            "%s has no %s: its last records are held out for validation, so one recording may be "
            "on both sides of the split. `encode` will need the recordings themselves (--audio).",
            *(source, MANIFEST_FILE),
        )
    for name in ("sample_rate", "channels"):
        has, wanted = getattr(database, name), getattr(project.data, name)
        if has != wanted:
            raise UserError(
                f"data.{name} is {wanted}, but the dataset in {source} was made with {has}",
                why=f"RAVE must be trained with the {name} of its dataset",
                do_this=f"set data.{name}={has}, or make the dataset again.",
            )


def _initial_weights(start: str, ckpt: Path | None, resume: bool) -> Weights | None:
    """The checkpoint that a new run starts from; None: a starter codec, or random weights."""
    if ckpt is None and start in ("auto", "none"):
        return None
    return find_weights(ckpt or Path(start), resume=resume)


def _fingerprint(dataset: Path) -> str:
    manifest = dataset / MANIFEST_FILE
    return runs.sha256_file(manifest if manifest.exists() else dataset / DATA_FILE)


def _file_fingerprint(path: Path) -> str:
    try:
        return runs.sha256_file(path)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}", why=str(error)) from error


def _log_plan(plan: RaveTrainingPlan, project: Project, run: Run) -> None:
    config, rate = project.rave, project.data.sample_rate
    if plan.over:
        log.info(
            "%s is at step %d already; raise rave.steps or rave.hours to train further",
            *(run.rave, plan.start),
        )
        return
    _log_weights(plan, config.configs)
    log.info(
        "RAVE%s: %s parameters in encoder and decoder, %d latent dimensions at %.1f frames/s",
        "" if _other_architecture(plan) else " " + "+".join(config.configs),
        *(f"{plan.parameters:,}", plan.latent_dim, rate / plan.hop),
    )
    log.info(
        "receptive field %d samples (%.0f ms); crops of %d samples (%.2f s), %d per step",
        *(plan.receptive_field, 1000 * plan.receptive_field / rate),
        *(config.n_signal, config.n_signal / rate, config.batch * config.devices),
    )
    log.info("training into %s: %s", run.rave, plan.ahead)


def _other_architecture(plan: RaveTrainingPlan) -> bool:
    """Whether the architecture is not that of `rave.configs`."""
    return plan.weights is not None and plan.weights.config is not None


def _log_weights(plan: RaveTrainingPlan, configs: list[str]) -> None:
    if plan.starter is not None:
        log.info("%s; rave.start=none starts from random weights", plan.starter.describe())
    if plan.weights is None:
        return
    log.info("%s", plan.weights.describe(plan.weights_step))
    if plan.weights.config is not None:
        log.info(
            "the architecture is that of %s; rave.configs=[%s] only adds what it leaves out",
            *(plan.weights.config, ", ".join(configs)),
        )


def _fit(training: RaveTraining) -> RaveTrainingResult:
    """Train; on an interrupt, log what was saved."""
    try:
        return training.fit()
    except KeyboardInterrupt:
        if training.last.exists():
            log.warning(
                "stopped at step %d, kept in %s; the same command continues",
                *(training.result().step, training.last),
            )
        raise


def _report(result: RaveTrainingResult) -> None:
    """Log the outcome; warn if training made the codec worse."""
    first, last, best = result.first, result.last, result.best
    # A training that has ended was validated before its first step and after its last one.
    assert first is not None and last is not None and best is not None
    log.info(
        "reconstruction of held-out sound: spectral distance %.3f (%s %.3f, best of phase %d %.3f "
        "at step %d)",
        *(last.distance, result.start_name, first, best.phase, best.distance, best.step),
    )
    shares = ", ".join(f"{100 * share:.0f} % in {n}" for share, n in last.fidelity.items())
    log.info("variance of the latents by principal directions: %s", shares)
    if last.distance >= first:
        log.warning("%s", _worse_than_start(result, first, last.distance, best.distance))


def _worse_than_start(result: RaveTrainingResult, first: float, last: float, best: float) -> str:
    advice = (
        f"`--ckpt best` uses step {result.best.step} instead, which is better ({best:.3f})"
        if result.best and best < first
        else "do not encode with it yet. Most likely it needs more training: raise rave.steps or "
        "rave.hours and give the same command again"
    )
    phase = (
        " (phase 2 trades some spectral distance for sharper sound, but not this much)"
        if result.phase == 2
        else ""
    )
    return (
        f"the codec reconstructs held-out sound worse than it did before training: spectral "
        f"distance {last:.3f}, {result.start_name} {first:.3f}{phase}; {advice}. If more steps do "
        "not help, lower rave.beta or add recordings."
    )
