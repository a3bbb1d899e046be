"""The measures of `evaluate`, each on one job; together they are its JSON file.

Shapes: B clips, C latent channels, D latent dimensions, F features, n windows, N audio samples, T
frames of a clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import audio as sound
from latentdiff.commands.evaluate_job import HANDFUL, Heard, Job, Latents, Measured
from latentdiff.diffusion import baseline
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation import compare, embeddings, mel, neighbours, windows
from latentdiff.evaluation.compare import Comparison
from latentdiff.evaluation.sound import SILENT_DB, level_db, spectral_distance
from latentdiff.model import clips as material
from latentdiff.model import sampling
from latentdiff.model.clips import Clips
from latentdiff.model.data import windows_of
from latentdiff.specs import Codec, Condition
from latentdiff.training.data import Batch, seed_of
from latentdiff.training.task import Task, spectrum_of
from latentdiff.training.validation import Validation, Validator

PROBE = 16
"""Frames of the windows that are looked for in the training set."""
PROBES = 256
"""Such windows of a set."""
PIECE = 1 << 14
"""Frames of a training file that are looked at together."""


def measure(job: Job, steps: Sequence[int]) -> Measured:
    """Everything; `steps` are further numbers of sampler steps to score."""
    model, settings = job.model, job.project.sampling
    found = Measured(
        {
            "checkpoint": str(model.path),
            "step": model.step,
            "samples": job.n,
            "seconds": round(model.spec.seconds(job.frames), 3),
            "clip_seconds": round(model.spec.seconds(job.clips.frames), 3),
            "window_seconds": round(model.spec.seconds(model.spec.window), 3),
            "clips": job.count,
            "held_out": None,
        }
    )
    _skill(job, found)
    drawn = _draw(job, settings, job.n, job.clips.other)
    after = _after_held_out(job)
    sets = _sets(job, drawn, after)
    found.comparisons["latents"] = _compare_latents(job, {k: x.final for k, x in sets.items()})
    found.results.update(
        calls=drawn.calls,
        latent=found.comparisons["latents"].facts(),
        spread=_spread(job, drawn.final),
        neighbours=_neighbours(job, drawn if after is None else after),
    )
    if job.codec is not None:
        _sound(job, job.codec, sets, found)
        if model.standardiser is not None:
            _follows(job, job.codec, drawn if after is None else after, found)
    found.results["steps"] = [_at_steps(job, k, sets, found.heard) for k in steps]
    return found


def _sound(job: Job, codec: Codec, sets: Mapping[str, Latents], found: Measured) -> None:
    """What is measured on decoded clips."""
    heard = found.heard
    for name, latents in sets.items():
        _listen(job, codec, name, latents.raw, heard)
    found.comparisons["mel"] = compare.compare_clips(heard.mels)
    found.results["mel"] = found.comparisons["mel"].facts()
    for name, features in heard.embedded.items():
        found.comparisons[name] = compare.compare(features)
    found.results["embeddings"] = {k: found.comparisons[k].facts() for k in heard.embedded}
    found.results["level"] = _levels(heard)


def _skill(job: Job, found: Measured) -> None:
    """Losses on held-out windows by noise level, each beside its baselines."""
    settings, model = job.project.training, job.model
    unheard, heard = (
        windows_of(model, job.store, split, memory_gb=settings.memory_gb, scratch=job.directory)
        for split in ("validation", "train")
    )
    if unheard is None or heard is None:
        found.losses.append("skill was not measured: no file is held out")
        return
    task = model.task()
    held, known = (x.spread(settings.validation_windows) for x in (unheard, heard))
    device = model.device
    levels, batch = settings.validation_levels, settings.batch
    validation = Validator(held, task, levels, batch).measure(model.denoiser, device)
    familiar, base = Validator(known, task, levels, batch).brief(model.denoiser, device)
    found.results["held_out"] = {
        **_summary(validation),
        "training_skill": baseline.skill(familiar, base),
        "windows": len(held.files),
        "logsnr": validation.logsnr,
        "losses": validation.losses,
        "variance": validation.baselines,
        **_baselines(task, held, spectrum_of(unheard), validation.logsnr),
    }


def _baselines(
    task: Task, held: Batch, spectrum: Tensor, logsnr: Sequence[float]
) -> dict[str, list[float]]:
    """Closed forms for these windows, as strong as they are: zero, and their own best filter."""
    power = held.latents.square().mean(dim=(0, 2))
    spectrum = spectrum * (power / spectrum.mean(dim=1).clamp(min=1e-12))[:, None]
    level = torch.tensor(logsnr)
    return {
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


def _draw(job: Job, settings: SamplingConfig, n: int, followed: Clips) -> Latents:
    """`n` samples; those of a conditioned model follow these clips in turn."""
    told, model = Condition(), job.model
    if model.condition.kind != "none":
        told = material.conditions(model, job.store, followed)
    # Not seed, seed + 1, ...: evaluations with seeds 0 and 1 would share all samples but one.
    seeds = [seed_of(job.project.seed, "evaluate", k) for k in range(n)]
    final, calls = sampling.draw(model, settings, seeds, job.frames, told)
    return Latents(final, _unwhiten(job, final, settings), calls)


def _after_held_out(job: Job) -> Latents | None:
    """One sample after each held-out clip, where the model follows sound and there are any."""
    held = job.clips.held_out
    if held is None or job.model.standardiser is None:
        return None
    return _draw(job, job.project.sampling, len(held.places), held)


def _unwhiten(job: Job, final: Tensor, settings: SamplingConfig) -> Tensor:
    return job.model.unwhiten(final, settings.fill, job.seeded("fill"))


def _sets(job: Job, drawn: Latents, after: Latents | None) -> dict[str, Latents]:
    """Every set that is compared, by name, in the order of the table."""
    reference, other, held = job.clips.reference, job.clips.other, job.clips.held_out
    noise = windows.white_noise(other.final, job.seeded("white noise"))
    frames = windows.shuffled(other.raw, job.seeded("shuffled"))
    made = {
        compare.KEPT: other.final,
        compare.WEAK: windows.weakened(other.final),
        compare.WHITE: noise,
    }
    sets: dict[str, Latents | None] = {
        compare.REFERENCE: Latents(reference.final, reference.raw),
        compare.OTHER: Latents(other.final, other.raw),
        compare.HELD_OUT: None if held is None else Latents(held.final, held.raw),
        compare.SAMPLES: drawn,
        compare.FOLLOWING: after,
        **{k: Latents(x, _unwhiten(job, x, job.project.sampling)) for k, x in made.items()},
        compare.SHUFFLED: Latents(job.model.whiten(frames), frames),
    }
    there = ((name, sets[name]) for name in compare.ORDER)
    # One clip has no spread worth a name.
    return {name: latents for name, latents in there if latents and len(latents.final) > 1}


def _compare_latents(job: Job, sets: Mapping[str, Tensor]) -> Comparison:
    """In units of each direction's standard deviation over the training clips."""
    scale = _deviation(job)[:, None]
    # The kept directions are all that these latents have.
    chosen = {name: x for name, x in sets.items() if name != compare.KEPT}
    return compare.compare_clips({name: x / scale for name, x in chosen.items()})


def _deviation(job: Job) -> Tensor:
    """[C] of all training clips."""
    train = torch.cat([job.clips.reference.final, job.clips.other.final])
    return train.std(dim=(0, 2), correction=0).clamp(min=1e-6)


def _spread(job: Job, final: Tensor) -> dict[str, Any]:
    ratio = final.std(dim=(0, 2), correction=0) / _deviation(job)
    return {
        "median": round(float(ratio.median()), 4),
        "directions": [round(x, 4) for x in ratio.tolist()],
    }


def _neighbours(job: Job, drawn: Latents) -> dict[str, float] | None:
    """How much nearer than held-out windows samples are to their nearest training window."""
    model, held = job.model, job.clips.held_out
    if held is None:
        return None
    scale = _deviation(job)[:, None]
    width = min(PROBE, job.clips.frames)
    queries = [_probes(x / scale, width) for x in (drawn.final, held.final)]
    both = neighbours.nearest(torch.cat(queries), (x / scale for x in _training(job, width)))
    samples, unheard = both.split([len(x) for x in queries])
    return {
        "ratio": round(neighbours.ratio(samples, unheard), 4),
        "samples": round(float(samples.median()), 4),
        "held_out": round(float(unheard.median()), 4),
        "seconds": round(model.spec.seconds(width), 3),
    }


def _training(job: Job, width: int) -> Iterator[Tensor]:
    """Final latents [C, t] of all training files, in pieces that hold each window once."""
    for entry in job.store.of("train"):
        raw = job.store.mean(entry)
        for start in range(0, entry.frames - width + 1, PIECE):
            piece = np.array(raw[:, start : start + PIECE + width - 1], dtype=np.float32)
            yield job.model.whiten(torch.from_numpy(piece))


def _probes(clips: Tensor, width: int) -> Tensor:
    cut = clips.unfold(-1, width, width).transpose(1, 2).flatten(0, 1)
    return cut[windows.spread(len(cut), PROBES)]


def _listen(job: Job, codec: Codec, name: str, raw: Tensor, heard: Heard) -> None:
    clips = material.decode(codec, raw, job.project.latents, name)
    heard.mels[name] = mel.log_mels(clips, codec.sample_rate)
    heard.levels[name] = [level_db(clip) for clip in clips]
    heard.kept[name] = clips[:HANDFUL]
    for plugin, function in job.embeddings.items():
        features = embeddings.embed(plugin, function, clips, codec.sample_rate)
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


def _follows(job: Job, codec: Codec, drawn: Latents, found: Measured) -> None:
    """Spectral distance in dB of samples to the recordings they follow, held-out if there are."""
    followed = job.clips.held_out or job.clips.other
    count = min(len(followed.places), len(drawn.raw))
    try:
        truth = [material.original(p, job.clips.frames, codec) for p in followed.places[:count]]
    except sound.AudioError as error:
        found.losses.append(f"samples were not held to what they follow: {error}")
        return
    settings = job.project.latents
    samples = material.decode(codec, drawn.raw[:count], settings, "what follows a condition")
    coded = material.decode(codec, followed.raw[:count], settings, "what is followed")
    wrong = truth[count // 2 :] + truth[: count // 2]
    found.results["condition"] = {
        "clips": count,
        "held_out": followed is job.clips.held_out,
        "right_db": _mean_distance(samples, truth),
        "codec_db": _mean_distance(coded, truth),
        "wrong_db": _mean_distance(samples, wrong) if count > 1 else None,
    }


def _mean_distance(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    distances = [spectral_distance(x, y) for x, y in zip(a, b, strict=True)]
    return round(float(np.mean(distances)), 3)


def _at_steps(job: Job, steps: int, sets: Mapping[str, Latents], heard: Heard) -> dict[str, Any]:
    """The scores of as many samples, drawn from the same seeds in another number of steps."""
    settings = job.project.sampling.model_copy(update={"steps": steps})
    drawn = _draw(job, settings, job.n, job.clips.other)
    finals = {name: latents.final for name, latents in sets.items()}
    latent = _compare_latents(job, {**finals, compare.SAMPLES: drawn.final})
    row: dict[str, Any] = {"steps": steps, "calls": drawn.calls}
    row["latent"] = latent.facts()["sets"][compare.SAMPLES]
    if job.codec is not None:
        clips = material.decode(job.codec, drawn.raw, job.project.latents, f"{steps} steps")
        mels = {**heard.mels, compare.SAMPLES: mel.log_mels(clips, job.codec.sample_rate)}
        row["mel"] = compare.compare_clips(mels).facts()["sets"][compare.SAMPLES]
    return row
