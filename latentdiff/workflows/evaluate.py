"""`evaluate`: what a diffusion model has learned, measured on held-out files and on its samples.

Shapes: B clips, C latent channels, D latent dimensions, K condition features, T frames of a clip.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import audio as sound
from latentdiff import config, runs
from latentdiff.diffusion import baseline
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.settings import DiffusionConfig, SamplingConfig
from latentdiff.errors import UserError
from latentdiff.evaluation import compare, embeddings, mel, neighbours, pictures, windows
from latentdiff.evaluation.compare import Comparison
from latentdiff.evaluation.sound import SILENT_DB, level_db, spectral_distance
from latentdiff.latents.store import LatentStore
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Codec, Condition
from latentdiff.training import checkpoint
from latentdiff.training.data import generator_for
from latentdiff.training.fabric import pick_device
from latentdiff.training.task import Task, spectrum_of
from latentdiff.training.validation import Validation, Validator
from latentdiff.workflows import evaluate_sets as material
from latentdiff.workflows.evaluate_report import table
from latentdiff.workflows.evaluate_sets import Clips, Material
from latentdiff.workflows.model import Model
from latentdiff.workflows.project import Project, already_done

log = logging.getLogger(__name__)

FOLDER = "evaluation"
RESULTS, TABLE = "evaluation.json", "evaluation.txt"
SECONDS = 5.0
"""Of a clip, where nobody says otherwise."""
HANDFUL = 4
"""Clips of a set that are kept as sound."""
PROBE = 16
"""Frames of the windows that are looked for in the training set."""
PROBES = 256


@dataclass(frozen=True)
class Job:
    """What is evaluated, and how."""

    model: Model
    store: LatentStore
    clips: Material
    codec: Codec | None
    """None: the sound cannot be judged, the latents can."""
    project: Project
    n: int
    embeddings: Mapping[str, embeddings.Embedding]
    directory: Path

    def seeded(self, what: str) -> torch.Generator:
        """What it draws depends on the seed and on `what`."""
        return generator_for(self.project.seed, "evaluate", what)


@dataclass(frozen=True)
class Drawn:
    """Samples of the model."""

    final: Tensor
    """[B, C, T]."""
    raw: Tensor
    """[B, D, T]."""
    calls: int
    """Of the network, a sample."""


@dataclass
class Heard:
    """What sets of clips sound like; the sound itself is kept of a handful."""

    mels: dict[str, Tensor] = field(default_factory=dict)
    """[B, bands, frames] in dB."""
    levels: dict[str, list[float]] = field(default_factory=dict)
    """dBFS RMS of each clip."""
    embedded: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By embedding, then set: features [n, F]."""
    kept: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """The first HANDFUL of each set, [channels, N]."""


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
    model = Model.load(checkpoint.find(diffusion or run.diffusion), device)
    store = LatentStore.open(_latents_of(run, model, latents))
    _check_fit(model, store)
    codec, losses = _codec_of(run, store, rave, ckpt, device)
    clips = material.gather(model, store, n, model.frames(seconds or SECONDS))
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
        "diffusion": Input(str(model.path), runs.sha256_file(model.path)),
        "latents": Input(str(store.root.resolve()), store.fingerprint()),
    }
    if codec is not None:
        inputs["codec"] = Input(str(codec.origin.path.resolve()), codec.fingerprint)
    _announce(model, clips, n)
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
        job = Job(model, store, clips, codec, project, n, plugins, directory)
        results = _measure(job, steps, losses)
        runs.write_json(directory / RESULTS, results)
        text = table(results)
        runs.write_text(directory / TABLE, text + "\n")
        stage.record(latent_score=results["latent"]["sets"][compare.SAMPLES]["score"])
        log.info("%s", text)
        _say_aloud(results)
    log.info("pictures and sounds: %s", directory)
    return losses


def _latents_of(run: Run, model: Model, given: Path | None) -> Path:
    """The latents that were given, the run's own, or those that the model was trained on."""
    if given is not None or run.latents.exists():
        return given or run.latents
    stage = model.path.parent.parent
    info = runs.read_run(stage)
    recorded = info["inputs"].get("latents") if info else None
    if recorded is None:
        raise UserError(
            f"there are no latents in {run.latents}",
            why="a model is compared with the latents it was trained on",
            do_this="name them with --latents.",
        )
    return Path(recorded["path"])


def _check_fit(model: Model, store: LatentStore) -> None:
    there, made = store.codec, model.codec.fingerprint
    same = there is None or not made or there.fingerprint == made
    if store.latent_dim != model.whitening.dimensions or not same:
        raise UserError(
            f"the latents in {store.root} are not of the codec that {model.path} was trained on",
            do_this="name the model's own with --latents.",
        )


def _codec_of(
    run: Run, store: LatentStore, rave: Path | None, ckpt: str | None, device: str
) -> tuple[RaveCodec | None, list[str]]:
    """The codec of the latents; None, and why, where nobody can say which it is."""
    info = runs.read_run(store.root)
    recorded = Path(info["inputs"].get("codec", {}).get("path", "")) if info else Path()
    if rave is None and ckpt is None and recorded.is_file():
        codec = RaveCodec.open(recorded, None, device)
    elif rave is not None or ckpt is not None or run.rave.exists():
        codec = RaveCodec.open(rave or run.rave, ckpt, device)
    else:
        return None, ["the sound was not judged: no codec is known (name one with --rave)"]
    wanted = store.codec.fingerprint if store.codec else codec.fingerprint
    if codec.latent_dim != store.latent_dim or codec.fingerprint != wanted:
        raise UserError(
            f"{codec.origin.path} is not the codec of the latents in {store.root}",
            do_this="give theirs with --rave or --ckpt.",
        )
    return codec, []


def _announce(model: Model, clips: Material, n: int) -> None:
    log.info("model: %s, step %d", model.path, model.step)
    held = 0 if clips.held_out is None else len(clips.held_out.places)
    log.info(
        "%d samples; %d training clips a set and %d held-out clips, %.1f s each",
        n,
        len(clips.reference.places),
        held,
        model.seconds(clips.frames),
    )


def _measure(job: Job, steps: Sequence[int], losses: list[str]) -> dict[str, Any]:
    """Everything, as `evaluation.json` holds it."""
    model, project = job.model, job.project
    results: dict[str, Any] = {
        "checkpoint": str(model.path),
        "step": model.step,
        "samples": job.n,
        "seconds": round(model.seconds(job.clips.frames), 3),
        "clips": len(job.clips.reference.places),
    }
    results["held_out"] = _skill(job, losses)
    drawn = _draw(job, project.sampling, job.n)
    results["calls"] = drawn.calls
    sets = _latent_sets(job, drawn)
    latent = _compare_latents(job, {name: final for name, (final, _) in sets.items()})
    results["latent"] = latent.facts()
    results["spread"] = _spread(job, drawn.final)
    results["neighbours"] = _neighbours(job, drawn.final)
    comparisons = {"latents": latent}
    heard = Heard()
    if job.codec is not None:
        for name, (_, raw) in sets.items():
            _listen(job, job.codec, name, raw, heard)
        heard_mel = _compare_mels(heard.mels, results["clips"])
        comparisons["mel"] = heard_mel
        results["mel"] = heard_mel.facts()
        results["embeddings"] = {}
        for name, features in heard.embedded.items():
            comparisons[name] = _compare_embedded(features)
            results["embeddings"][name] = comparisons[name].facts()
        results["level"] = _levels(heard)
        if model.condition.kind == "mel":
            results["condition"] = _follows(job, job.codec, drawn, losses)
    results["steps"] = [_at_steps(job, k, sets, heard) for k in steps]
    _pictures(job, results, comparisons, heard)
    _keep_sounds(job, heard)
    return results


def _skill(job: Job, losses: list[str]) -> dict[str, Any] | None:
    """Losses on held-out windows by noise level, each beside its baselines."""
    settings, model = job.project.training, job.model
    cut = material.windows_of(model, job.store, "validation", job.directory)
    if cut is None:
        losses.append("skill was not measured: no file is held out")
        return None
    header = checkpoint.load_weights(model.path).header
    diffusion = config.build(DiffusionConfig, header["diffusion"], source=str(model.path))
    task = Task(Objective.from_config(diffusion), model.schedule)
    held = cut.spread(settings.validation_windows)
    validator = Validator(held, task, settings.validation_levels, settings.batch)
    device = next(model.denoiser.parameters()).device
    validation = validator.measure(model.denoiser, device)
    power = held.latents.square().mean(dim=(0, 2))
    level = torch.tensor(validation.logsnr)
    spectrum = spectrum_of(cut) * power[:, None]
    return {
        **_summary(validation),
        "windows": len(held.files),
        "logsnr": validation.logsnr,
        "losses": validation.losses,
        "variance": validation.baselines,
        "zero": baseline.zero(task.objective, level, power).tolist(),
        "wiener": baseline.spectrum_only(task.objective, level, spectrum).tolist(),
    }


def _summary(validation: Validation) -> dict[str, float | None]:
    return {
        "loss": validation.loss,
        "baseline": validation.baseline,
        "skill": validation.skill,
        "conditioning_gain": validation.conditioning_gain,
    }


def _draw(job: Job, settings: SamplingConfig, n: int) -> Drawn:
    """`n` samples; those of a conditioned model follow the held-out clips in turn."""
    told, model = Condition(), job.model
    if model.condition.kind != "none":
        told = material.conditions(model, job.store, _followed(job))
    seeds = list(range(job.project.seed, job.project.seed + n))
    final, calls = material.draw(model, settings, seeds, job.clips.frames, told)
    return Drawn(final, _unwhiten(job, final, settings), calls)


def _followed(job: Job) -> Clips:
    return job.clips.held_out or job.clips.other


def _unwhiten(job: Job, final: Tensor, settings: SamplingConfig) -> Tensor:
    device = job.model.whitening.mean.device
    raw = job.model.whitening.unwhiten(final.to(device), settings.fill, job.seeded("fill"))
    return raw.cpu()


def _latent_sets(job: Job, drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
    """Final and raw latents of every set, by name."""
    clips, fill = job.clips, job.project.sampling
    noise = windows.white_noise(clips.other.final, job.seeded("white noise"))
    frames = windows.shuffled(clips.other.raw, job.seeded("shuffled"))
    seen = clips.other.final
    sets = {
        compare.REFERENCE: (clips.reference.final, clips.reference.raw),
        compare.OTHER: (clips.other.final, clips.other.raw),
    }
    if clips.held_out is not None and len(clips.held_out.places) > 1:
        sets[compare.HELD_OUT] = (clips.held_out.final, clips.held_out.raw)
    return {
        **sets,
        compare.KEPT: (seen, _unwhiten(job, seen, fill)),
        compare.SAMPLES: (drawn.final, drawn.raw),
        compare.SHUFFLED: (material.whiten(job.model, frames), frames),
        compare.WHITE: (noise, _unwhiten(job, noise, fill)),
    }


def _compare_latents(job: Job, sets: Mapping[str, Tensor]) -> Comparison:
    """In units of each direction's standard deviation over the training clips."""
    scale = _deviation(job)[:, None]
    count = len(job.clips.reference.places)
    # The kept directions are all that these latents have.
    return compare.compare(
        {k: windows.features(x[:count] / scale) for k, x in sets.items() if k != compare.KEPT}
    )


def _deviation(job: Job) -> Tensor:
    """[C] of all training clips."""
    train = torch.cat([job.clips.reference.final, job.clips.other.final])
    return train.std(dim=(0, 2), correction=0).clamp(min=1e-6)


def _compare_mels(mels: Mapping[str, Tensor], count: int) -> Comparison:
    return compare.compare({k: windows.features(x[:count]) for k, x in mels.items()})


def _compare_embedded(features: Mapping[str, Tensor]) -> Comparison:
    least = min(len(x) for k, x in features.items() if k != compare.HELD_OUT)
    return compare.compare({k: x[windows.spread(len(x), least)] for k, x in features.items()})


def _spread(job: Job, final: Tensor) -> dict[str, Any]:
    ratio = final.std(dim=(0, 2), correction=0) / _deviation(job)
    return {
        "median": round(float(ratio.median()), 4),
        "directions": [round(x, 4) for x in ratio.tolist()],
    }


def _neighbours(job: Job, final: Tensor) -> dict[str, float] | None:
    """How much nearer than held-out windows samples are to their nearest training window."""
    model, held = job.model, job.clips.held_out
    if held is None:
        return None
    scale = _deviation(job)[:, None]
    width = min(PROBE, job.clips.frames)
    queries = [_probes(x / scale, width) for x in (final, held.final)]
    files = (
        material.whiten(model, torch.from_numpy(np.array(job.store.mean(entry)))) / scale
        for entry in job.store.of("train")
    )
    both = neighbours.nearest(torch.cat(queries), files)
    samples, unheard = both.split([len(x) for x in queries])
    return {
        "ratio": round(neighbours.ratio(samples, unheard), 4),
        "samples": round(float(samples.median()), 4),
        "held_out": round(float(unheard.median()), 4),
        "seconds": round(model.seconds(width), 3),
    }


def _probes(clips: Tensor, width: int) -> Tensor:
    cut = clips.unfold(-1, width, width).transpose(1, 2).flatten(0, 1)
    return cut[windows.spread(len(cut), PROBES)]


def _listen(job: Job, codec: Codec, name: str, raw: Tensor, heard: Heard) -> None:
    clips = material.decode(codec, raw, job.project.latents, name)
    heard.mels[name] = mel.log_mels(clips, codec.sample_rate)
    heard.levels[name] = [level_db(clip) for clip in clips]
    heard.kept[name] = clips[:HANDFUL]
    count = len(job.clips.reference.places)
    for plugin, function in job.embeddings.items():
        features = embeddings.embed(plugin, function, clips[:count], codec.sample_rate)
        heard.embedded.setdefault(plugin, {})[name] = features


def _levels(heard: Heard) -> dict[str, Any]:
    """dBFS of samples, beside what the codec makes of the training clips."""
    real = heard.levels[compare.REFERENCE] + heard.levels[compare.OTHER]
    return {"samples": _level(heard.levels[compare.SAMPLES]), "training": _level(real)}


def _level(levels: list[float]) -> dict[str, Any]:
    # Digital silence has no finite level; -200 dB is below anything that sounds.
    finite = [round(max(-200.0, level), 2) for level in levels]
    return {
        "median_db": round(float(np.median(finite)), 2),
        "quietest_db": min(finite),
        "loudest_db": max(finite),
        "silent": sum(level < SILENT_DB for level in levels),
        "clips": len(levels),
        "each_db": finite,
    }


def _follows(job: Job, codec: Codec, drawn: Drawn, losses: list[str]) -> dict[str, Any] | None:
    """Spectral distance in dB of what follows a clip to that clip's recording."""
    followed = _followed(job)
    count = min(len(followed.places), len(drawn.raw))
    try:
        truth = [material.original(p, job.clips.frames, codec) for p in followed.places[:count]]
    except sound.AudioError as error:
        losses.append(f"how well samples follow their condition was not measured: {error.why}")
        return None
    settings = job.project.latents
    samples = material.decode(codec, drawn.raw[:count], settings, "what follows a condition")
    coded = material.decode(codec, followed.raw[:count], settings, "their conditions")
    wrong = truth[count // 2 :] + truth[: count // 2]
    return {
        "clips": count,
        "held_out": followed is job.clips.held_out,
        "right_db": _mean_distance(samples, truth),
        "codec_db": _mean_distance(coded, truth),
        "wrong_db": _mean_distance(samples, wrong) if count > 1 else None,
    }


def _mean_distance(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    distances = [spectral_distance(x, y) for x, y in zip(a, b, strict=True)]
    return round(float(np.mean(distances)), 3)


def _at_steps(
    job: Job, steps: int, sets: Mapping[str, tuple[Tensor, Tensor]], heard: Heard
) -> dict[str, Any]:
    """The scores of as many samples, drawn from the same seeds in another number of steps."""
    settings = job.project.sampling.model_copy(update={"steps": steps})
    count = len(job.clips.reference.places)
    drawn = _draw(job, settings, min(job.n, count))
    finals = {name: final for name, (final, _) in sets.items()}
    latent = _compare_latents(job, {**finals, compare.SAMPLES: drawn.final})
    row: dict[str, Any] = {
        "steps": steps,
        "calls": drawn.calls,
        "latent": latent.facts()["sets"][compare.SAMPLES],
    }
    if job.codec is not None:
        clips = material.decode(job.codec, drawn.raw, job.project.latents, f"{steps} steps")
        mels = {**heard.mels, compare.SAMPLES: mel.log_mels(clips, job.codec.sample_rate)}
        row["mel"] = _compare_mels(mels, count).facts()["sets"][compare.SAMPLES]
    return row


def _pictures(
    job: Job, results: dict[str, Any], comparisons: Mapping[str, Comparison], heard: Heard
) -> None:
    draw: dict[str, Callable[[Path], None]] = {
        "scores.png": lambda path: pictures.scores(path, comparisons)
    }
    if results["held_out"] is not None:
        draw["loss.png"] = lambda path: pictures.losses(path, results["held_out"])
    if job.codec is not None:
        rows = _spectrogram_rows(job, job.codec, heard)
        seconds = results["seconds"]
        draw["spectrograms.png"] = lambda path: pictures.spectrograms(path, rows, seconds)
    for name, make in draw.items():
        with runs.atomic(job.directory / name) as partial:
            make(partial)


def _spectrogram_rows(job: Job, codec: Codec, heard: Heard) -> dict[str, list[np.ndarray]]:
    """Log-mels [bands, frames] of a few clips a row; the originals where they still exist."""
    real = job.clips.held_out or job.clips.other
    name = compare.HELD_OUT if compare.HELD_OUT in heard.mels else compare.OTHER
    rows: dict[str, list[np.ndarray]] = {}
    try:
        places = real.places[:HANDFUL]
        clips = [material.original(place, job.clips.frames, codec) for place in places]
        rows["recordings"] = list(mel.log_mels(clips, codec.sample_rate).numpy())
    except sound.AudioError as error:
        log.warning("the recordings are not in the pictures: %s", error.why)
    rows["what the codec makes of them"] = list(heard.mels[name][:HANDFUL].numpy())
    rows["samples"] = list(heard.mels[compare.SAMPLES][:HANDFUL].numpy())
    return rows


def _keep_sounds(job: Job, heard: Heard) -> None:
    if job.codec is None:
        return
    for name in (compare.SAMPLES, compare.OTHER, compare.HELD_OUT):
        for index, clip in enumerate(heard.kept.get(name, [])):
            path = job.directory / "audio" / f"{name.split(',')[0].replace(' ', '-')}-{index}.wav"
            runs.make_directory(path.parent)
            sound.write(path, [clip], job.codec.sample_rate, "wav")


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
    if near and near["ratio"] < 0.5:
        log.warning("samples lie far nearer to training windows than held-out ones do: copies?")


def read(run: Run) -> dict[str, Any]:
    """The results of a finished evaluation. Raises UserError where there is none."""
    runs.require_done(run.root / FOLDER, "evaluation", "evaluate")
    return dict(json.loads((run.root / FOLDER / RESULTS).read_text(encoding="utf-8")))
