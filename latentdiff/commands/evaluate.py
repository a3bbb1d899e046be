"""`evaluate`: measure a diffusion model on held-out files and by its samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from latentdiff import runs
from latentdiff.commands import evaluate_pictures
from latentdiff.commands.evaluate_report import table, to_json
from latentdiff.evaluation import embeddings, sets
from latentdiff.evaluation.sound import SILENT_DB
from latentdiff.model.clips import NO_CODEC, ClipSets
from latentdiff.model.evaluate import (
    EvaluationResult,
    EvaluationSettings,
    choose_clips,
    evaluate_model,
)
from latentdiff.model.evaluate.inputs import sample_frames
from latentdiff.model.model import Model
from latentdiff.model.project import Project, already_done, is_unfinished
from latentdiff.model.resolve import inputs_of, open_codec, open_model
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Run, Stage
from latentdiff.training.fabric import pick_device
from latentdiff.training.settings import VALIDATION

log = logging.getLogger(__name__)

NAME = "evaluate"
FOLDER = "evaluation"
RESULTS, TABLE = "evaluation.json", "evaluation.txt"


def evaluate(
    run: Run,
    project: Project,
    *,
    n: int = 32,
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
    """Measure the model on held-out files, and `n` samples of it beside training clips.

    Writes a table, `evaluation.json`, pictures and a few sounds into `run`/evaluation. `steps`:
    further numbers of sampler steps to score. `embedding`: names of plug-ins (see
    `latentdiff.evaluation.embeddings`). Returns what was skipped, with reasons.
    """
    settings = EvaluationSettings(
        sampling=project.sampling,
        training=project.training,
        latents=project.latents,
        seed=project.seed,
        n=n,
        seconds=seconds,
        steps=tuple(steps),
        embeddings={name: embeddings.load(name) for name in embedding},
    )
    device = pick_device(project.device)
    model, store = open_model(run, diffusion, latents, device)
    codec = open_codec(run, store, rave, ckpt, device)
    skipped = [] if codec else [NO_CODEC]
    clips = choose_clips(model, store, settings)
    directory = run.root / FOLDER
    # Nothing of an interrupted evaluation can be continued, so other settings may replace it.
    overwrite = overwrite or is_unfinished(directory, NAME)
    remembered, inputs = _remembered(settings), inputs_of(model, store, codec)
    _log_plan(model, clips, settings)
    if already_done(directory, NAME, remembered, inputs, overwrite):
        log.info("%s", (directory / TABLE).read_text(encoding="utf-8"))
        return skipped
    if dry_run:
        log.info("dry run: nothing was written; the evaluation would go to %s", directory)
        return skipped
    with Stage(
        directory,
        NAME,
        config=remembered,
        inputs=inputs,
        seed=project.seed,
        overwrite=overwrite,
    ) as stage:
        result = evaluate_model(model, store, clips, codec, settings, scratch=directory)
        _write(directory, result, clips, codec)
        stage.record(latent_score=result.latents.joint.scores[sets.SAMPLES].value)
        _warn(result)
    log.info("pictures and sounds: %s", directory)
    return result.skipped


def _remembered(settings: EvaluationSettings) -> dict[str, object]:
    """Settings that affect the result, for `run.json`: if they differ, it is another evaluation."""
    return {
        "sampling": settings.sampling.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", include=set(VALIDATION)),
        "seed": settings.seed,
        "n": settings.n,
        "seconds": settings.seconds,
        "steps": list(settings.steps),
        "embedding": list(settings.embeddings),
    }


def _log_plan(model: Model, clips: ClipSets, settings: EvaluationSettings) -> None:
    log.info("model: %s, step %d", model.path, model.step)
    log.info(
        "%d samples of %.1f s; %d training clips per set and %d held-out clips of %.1f s",
        settings.n,
        model.spec.seconds(sample_frames(model, clips, settings)),
        len(clips.reference),
        0 if clips.held_out is None else len(clips.held_out),
        model.spec.seconds(clips.frames),
    )


def _write(
    directory: Path, result: EvaluationResult, clips: ClipSets, codec: RaveCodec | None
) -> None:
    """Write all files of an evaluation, and log the table."""
    runs.write_json(directory / RESULTS, to_json(result))
    text = table(result)
    runs.write_text(directory / TABLE, text + "\n")
    evaluate_pictures.draw(directory, result, clips, codec)
    if codec is not None:
        evaluate_pictures.write_sounds(directory, result, codec.sample_rate)
    log.info("%s", text)


def _warn(result: EvaluationResult) -> None:
    """Warnings about what must not be overlooked in the table."""
    if result.level and result.level.samples.silent:
        ours = result.level.samples
        log.warning(
            "%d of %d samples are silent (below %.0f dBFS)", ours.silent, ours.clips, SILENT_DB
        )
    if result.copying.found:
        log.warning(
            "%.0f %% of the samples copy training recordings: the model has memorised them",
            100 * result.copying.share,
        )
    if result.copying.leaked:
        log.warning(
            "%d held-out clips are training recordings themselves: skill on held-out files is too "
            "good; remove the copies, then preprocess and encode again",
            result.copying.leaked,
        )
