"""`train-rave`: a dataset -> a RAVE codec with checkpoints `last` and `best`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from latentdiff import runs, tracking
from latentdiff.errors import UserError
from latentdiff.model.project import Project, begin, check_upstream
from latentdiff.rave.database import DATA_FILE, MANIFEST_FILE, RaveDatabase
from latentdiff.rave.train import RaveTraining, Report
from latentdiff.runs import Input, Run

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "rave.steps",
    "rave.validate_every",
    "rave.checkpoint_every",
    "rave.workers",
)
"""Settings that a run may be continued with although it was begun with others."""


def train_rave(
    run: Run,
    project: Project,
    *,
    dataset: Path | None = None,
    ckpt: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Train RAVE on `dataset` (None: the run's own) into the run's `rave` folder.

    The same command again continues, up to a raised `rave.steps` too. `ckpt`: begin with the
    weights of another checkpoint of the same shape. Returns no losses. Raises UserError before the
    first step where the settings cannot work.
    """
    source = dataset or run.dataset
    if dataset is None:
        check_upstream(project, [source])
    _check_dataset(source, project)
    inputs = {"dataset": Input(str(source), _fingerprint(source))}
    if ckpt is not None:
        inputs["weights"] = Input(str(ckpt), _file_fingerprint(ckpt))
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
        initial_weights=ckpt,
        resume=not overwrite,
    )
    with training:
        if dry_run:
            _log_plan(training.report, project, run)
            return []
        with stage:
            _log_plan(training.report, project, run)
            log.info(tracking.tensorboard_hint(run.root.parent))
            stage.record(**_summary(_fit(training)))
    return []


def _check_dataset(source: Path, project: Project) -> None:
    """Refuse a dataset of another sound than the settings say."""
    if runs.read_run(source) is not None:
        runs.require_done(source, "dataset", "preprocess")
    database = RaveDatabase(source)
    if not (source / MANIFEST_FILE).exists():
        log.warning(
            "%s has no %s: its last records are held out for validation, so a recording may stand "
            "on both sides of the split",
            *(source, MANIFEST_FILE),
        )
    for name in ("sample_rate", "channels"):
        has, wanted = getattr(database, name), getattr(project.data, name)
        if has != wanted:
            raise UserError(
                f"data.{name} is {wanted}, but the dataset in {source} was made with {has}",
                why="RAVE must work at its dataset's own",
                do_this=f"set data.{name}={has}, or make the dataset again.",
            )


def _fingerprint(dataset: Path) -> str:
    manifest = dataset / MANIFEST_FILE
    return runs.sha256_file(manifest if manifest.exists() else dataset / DATA_FILE)


def _file_fingerprint(path: Path) -> str:
    try:
        return runs.sha256_file(path)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}", why=str(error)) from error


def _log_plan(report: Report, project: Project, run: Run) -> None:
    config, rate = project.rave, project.data.sample_rate
    phase_1 = min(report.schedule.phase_1_steps, config.steps)
    if report.start >= config.steps:
        log.info(
            "%s is at step %d already; rave.steps=%d asks for no more",
            run.rave,
            report.start,
            config.steps,
        )
        return
    log.info(
        "RAVE %s: %s parameters in encoder and decoder, %d latent dimensions at %.1f frames/s",
        "+".join(config.configs),
        *(f"{report.parameters:,}", report.latent_dim, rate / report.hop),
    )
    log.info(
        "receptive field %d samples (%.0f ms); crops of %d samples (%.2f s), %d a step",
        *(report.receptive_field, 1000 * report.receptive_field / rate),
        *(config.n_signal, config.n_signal / rate, config.batch * config.devices),
    )
    log.info(
        "steps %d to %d into %s: %d in phase 1 (beta rises in %d), %d with the discriminator",
        *(report.start, config.steps, run.rave, phase_1, report.schedule.beta_warmup_steps),
        config.steps - phase_1,
    )


def _fit(training: RaveTraining) -> dict[str, Any]:
    """Train; where it is interrupted, say what was kept."""
    try:
        outcome = training.fit()
    except KeyboardInterrupt:
        if training.last.exists():
            done = training.outcome()["step"]
            log.warning(
                "stopped at step %d, kept in %s; the same command continues", done, training.last
            )
        raise
    first, last, best = outcome["first"], outcome["last"], outcome["best"]
    log.info(
        "reconstruction of held-out sound: spectral distance %.3f (untrained %.3f, best of phase "
        "%d %.3f at step %d)",
        *(last["distance"], first, best["phase"], best["distance"], best["step"]),
    )
    shares = ", ".join(f"{100 * level:.0f} % in {n}" for level, n in last["fidelity"].items())
    log.info("variance of the latents by principal directions: %s", shares)
    return outcome


def _summary(outcome: dict[str, Any]) -> dict[str, Any]:
    """What run.json keeps under `result`."""
    codec = ("sample_rate", "hop", "latent_dim", "channels")
    names = ("step", "phase", "first", "last", "best", "schedule", *codec)
    return {name: outcome[name] for name in names}
