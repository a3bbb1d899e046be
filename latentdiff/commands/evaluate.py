"""`evaluate`: what a diffusion model has learned, measured on held-out files and on its samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentdiff import runs
from latentdiff.commands import evaluate_pictures
from latentdiff.commands.evaluate_job import Job
from latentdiff.commands.evaluate_measures import measure
from latentdiff.commands.evaluate_report import table
from latentdiff.evaluation import compare, embeddings
from latentdiff.evaluation.sound import SILENT_DB
from latentdiff.latents.store import LatentStore
from latentdiff.model import clips as evaluate_sets
from latentdiff.model.clips import CLIP_SECONDS, NO_CODEC, ClipSets
from latentdiff.model.model import Model
from latentdiff.model.project import Project, already_done
from latentdiff.model.resolve import open_codec, open_model
from latentdiff.runs import Input, Run, Stage
from latentdiff.training.fabric import pick_device

log = logging.getLogger(__name__)

FOLDER = "evaluation"
RESULTS, TABLE = "evaluation.json", "evaluation.txt"
COPIES = 0.5
"""Ratio of distances to the nearest training window below which samples look like copies."""


def evaluate(
    run: Run,
    project: Project,
    *,
    n: int = 64,
    seconds: float | None = None,
    latents: Path | None = None,
    diffusion: Path | None = None,
    rave: Path | None = None,
    ckpt: str | None = None,
    steps: Sequence[int] = (),
    embedding: Sequence[str] = (),
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Measure the model on held-out files, and `n` samples of it against the training set.

    Writes a table, `evaluation.json`, pictures and a handful of sounds into `run`/evaluation.
    `steps`: further numbers of sampler steps to score. `embedding`: names of plug-ins (see
    `latentdiff.evaluation.embeddings`). Returns what could not be measured, with reasons.
    """
    plugins = {name: embeddings.load(name) for name in embedding}
    device = pick_device(project.device)
    model, store = open_model(run, diffusion, latents, device)
    codec = open_codec(run, store, rave, ckpt, device)
    losses = [] if codec else [NO_CODEC]
    clips, frames = _clips(model, store, n, seconds, project.sampling.seconds)
    directory = run.root / FOLDER
    settings = {
        "sampling": project.sampling.model_dump(mode="json"),
        "seed": project.seed,
        "n": n,
        "seconds": seconds,
        "steps": list(steps),
        "embedding": list(embedding),
    }
    inputs = {
        "diffusion": model.as_input(),
        "latents": Input(str(store.root.resolve()), store.fingerprint()),
    }
    if codec is not None:
        inputs["codec"] = Input(str(codec.origin.path.resolve()), codec.fingerprint)
    _announce(model, clips, n, frames)
    if already_done(directory, "evaluate", settings, inputs, overwrite):
        log.info("%s", (directory / TABLE).read_text(encoding="utf-8"))
        return losses
    if dry_run:
        log.info("dry run: nothing was written; it would evaluate into %s", directory)
        return losses
    with Stage(
        directory,
        "evaluate",
        config=settings,
        inputs=inputs,
        seed=project.seed,
        overwrite=overwrite,
    ) as stage:
        job = Job(model, store, clips, codec, project, n, frames, plugins, directory)
        found = measure(job, steps)
        runs.write_json(directory / RESULTS, found.results)
        text = table(found.results)
        runs.write_text(directory / TABLE, text + "\n")
        evaluate_pictures.draw(job, found)
        evaluate_pictures.keep_sounds(job, found.heard)
        stage.record(latent_score=found.results["latent"]["sets"][compare.SAMPLES]["score"])
        log.info("%s", text)
        _say_aloud(found.results)
    log.info("pictures and sounds: %s", directory)
    return losses + found.losses


def _clips(
    model: Model, store: LatentStore, n: int, seconds: float | None, usual: float
) -> tuple[ClipSets, int]:
    """Real clips, and frames of a sample: as long as the clips where samples follow these."""
    if model.standardiser is not None:
        clips = evaluate_sets.gather(model, store, n, model.spec.frames(seconds or CLIP_SECONDS))
        return clips, clips.frames
    frames = model.spec.frames(seconds or usual)
    short = min(frames, model.spec.frames(CLIP_SECONDS))
    return evaluate_sets.gather(model, store, n, short), frames


def _announce(model: Model, clips: ClipSets, n: int, frames: int) -> None:
    log.info("model: %s, step %d", model.path, model.step)
    held = 0 if clips.held_out is None else len(clips.held_out.places)
    log.info(
        "%d samples of %.1f s; %d training clips a set and %d held-out clips of %.1f s",
        n,
        model.spec.seconds(frames),
        len(clips.reference.places),
        held,
        model.spec.seconds(clips.frames),
    )


def _say_aloud(results: dict[str, Any]) -> None:
    """Warnings for what a reader of the table must not overlook."""
    level = results.get("level")
    if level and level["samples"]["silent"]:
        log.warning(
            "%d of %d samples are silent (below %.0f dBFS)",
            level["samples"]["silent"],
            level["samples"]["clips"],
            SILENT_DB,
        )
    near = results["neighbours"]
    if near and near["ratio"] < COPIES:
        log.warning(
            "samples lie far nearer to training windows than held-out ones do (ratio %.2f): the "
            "model may have learned recordings by heart",
            near["ratio"],
        )
