"""`diagnose conditioning`: does the model do what it is told?

Shapes: B clips, C latent channels, D latent dimensions, K condition features, N audio samples, T
frames of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latentdiff.diagnose.conditioning import picture as conditioning_pictures
from latentdiff.diagnose.conditioning.losses import exchanged, measure
from latentdiff.diagnose.conditioning.report import text
from latentdiff.diagnose.listening import distance_of, level_of, wavs
from latentdiff.diagnose.report import Report, run_question
from latentdiff.errors import UserError
from latentdiff.evaluation import windows
from latentdiff.evaluation.difference import relative
from latentdiff.latents.store import LatentStore
from latentdiff.model import clips as material
from latentdiff.model.clips import CLIP_SECONDS, NO_CODEC, Clips
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_codec, open_model
from latentdiff.model.sampling import draw
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Input, Run
from latentdiff.specs import Condition
from latentdiff.training import verdict
from latentdiff.training.data import generator_for, seed_of
from latentdiff.training.fabric import pick_device

NAME = "conditioning"
GUIDANCE = (0.0, 1.0, 2.0, 4.0)
"""Scales that are tried; 0 ignores the condition, 1 is no guidance."""


@dataclass(frozen=True)
class Job:
    """A model that follows something, and clips for it to follow."""

    model: Model
    store: LatentStore
    codec: RaveCodec | None
    """None: sounds are not compared, latents are."""
    project: Project
    clips: Clips
    right: Condition
    """Features [B, K, T] and labels [B] of the clips."""
    scratch: Path

    @property
    def split(self) -> str:
        """Of the files that the clips are cut from."""
        return self.clips.places[0].entry.split

    def draw(self, told: Condition, noise: str = "noise", guidance: float | None = None) -> Tensor:
        """Final latents [B, C, T] as long as the clips; equal noise for equal `noise`."""
        settings = self.project.sampling
        if guidance is not None:
            settings = settings.model_copy(update={"guidance": guidance})
        count, frames = len(self.clips.places), self.clips.final.shape[-1]
        seeds = [seed_of(self.project.seed, NAME, noise, k) for k in range(count)]
        return draw(self.model, settings, seeds, frames, told).latents

    def decode(self, final: Tensor, what: str) -> list[np.ndarray] | None:
        """Sounds [channels, N]; None without a codec."""
        if self.codec is None:
            return None
        fill = generator_for(self.project.seed, NAME, "fill")
        raw = self.model.unwhiten(final, self.project.sampling.fill, fill)
        return material.decode(self.codec, raw, self.project.latents, what)


@dataclass(frozen=True)
class Drawn:
    """Samples of one kind."""

    final: Tensor
    """[B, C, T]."""
    clips: list[np.ndarray] | None
    """[channels, N] each."""

    def to(self, other: Drawn) -> dict[str, float | None]:
        """How unlike others these are: latents without unit, sounds in dB."""
        heard = None
        if self.clips is not None and other.clips is not None:
            heard = distance_of(self.clips, other.clips)
        return {"latents": round(relative(self.final, other.final), 4), "sound_db": heard}


def diagnose_conditioning(
    run: Run,
    project: Project,
    *,
    diffusion: Path | None = None,
    latents: Path | None = None,
    rave: Path | None = None,
    ckpt: str | None = None,
    n: int = 8,
    seconds: float = CLIP_SECONDS,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Compare samples of equal noise or equal condition, and losses with right and wrong ones.

    Returns what could not be measured. Raises UserError for a model that follows nothing.
    """
    device = pick_device(project.device)
    model, store = open_model(run, diffusion, latents, device)
    if model.condition.kind == "none":
        raise UserError(
            f"{model.path} follows no condition",
            why="it was trained with condition.kind=none",
            do_this="train one with condition.kind=mel, label or both.",
        )
    codec = open_codec(run, store, rave, ckpt, device)
    directory = run.diagnosis / NAME
    run_question(
        NAME,
        dict,
        lambda: _report(_job(model, store, codec, project, n, seconds, directory)),
        directory,
        settings={
            "sampling": project.sampling.model_dump(mode="json"),
            "seed": project.seed,
            "n": n,
            "seconds": seconds,
        },
        inputs=_inputs(model, store, codec),
        seed=project.seed,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return [] if codec is not None else [NO_CODEC]


def _inputs(model: Model, store: LatentStore, codec: RaveCodec | None) -> dict[str, Input]:
    inputs = {
        "diffusion": model.as_input(),
        "latents": Input(str(store.root.resolve()), store.fingerprint()),
    }
    if codec is not None:
        inputs["codec"] = Input(str(codec.origin.path.resolve()), codec.fingerprint)
    return inputs


def _job(
    model: Model,
    store: LatentStore,
    codec: RaveCodec | None,
    project: Project,
    n: int,
    seconds: float,
    scratch: Path,
) -> Job:
    """With clips of held-out files, or of the others where none is held out."""
    entries = store.of("validation") or store.of("train")
    frames = material.shortened(entries, model.spec.frames(seconds), min(n, material.FEWEST))
    places = material.places_in(entries, frames)
    if len(places) < 2:
        raise UserError(
            f"the files of {store.root} are too short to compare conditions",
            why=f"they hold {len(places)} clips of {frames} frames, 2 are the least",
            do_this="add recordings, then preprocess and encode again.",
        )
    places = [places[k] for k in windows.spread(len(places), n)]
    clips = material.read(model, store, places, frames)
    right = material.conditions(model, store, clips)
    return Job(model, store, codec, project, clips, right, scratch)


def _report(job: Job) -> Report[dict[str, Any]]:
    drawn = _draw_all(job)
    results = _results(job, drawn)
    heard = {name: samples.clips for name, samples in drawn.items() if samples.clips is not None}
    files = {
        f"{NAME}.png": lambda path: conditioning_pictures.distances(path, results),
        **wavs(heard, job.model.codec.sample_rate),
    }
    return Report(results, text(results), files)


def _draw_all(job: Job) -> dict[str, Drawn]:
    """Every kind of samples, and the clips that they follow."""
    model, right, labels = job.model, job.right, len(job.model.labels)
    wrong = exchanged(right, labels)
    finals = {
        "followed": job.clips.final,
        "right": job.draw(right),
        "other condition": job.draw(wrong),
        "other noise": job.draw(right, "other noise"),
        "both other": job.draw(wrong, "other noise"),
    }
    if model.condition.kind == "both":
        finals["other spectrogram"] = job.draw(exchanged(right, labels, label=False))
        finals["other label"] = job.draw(exchanged(right, labels, features=False))
    if model.condition.dropout > 0:
        finals |= {f"guidance {scale:g}": job.draw(right, guidance=scale) for scale in GUIDANCE}
    return {name: Drawn(final, job.decode(final, name)) for name, final in finals.items()}


def _results(job: Job, drawn: Mapping[str, Drawn]) -> dict[str, Any]:
    """As the JSON file holds them."""
    model, right = job.model, drawn["right"]
    changed = ("other condition", "other spectrogram", "other label", "other noise", "both other")
    losses = measure(model, job.store, job.split, job.project.training, job.scratch)
    follows_mel = model.condition.follows_mel
    return {
        "checkpoint": str(model.path),
        "step": model.step,
        "kind": model.condition.kind,
        "clips": len(job.clips.places),
        "clip_seconds": round(model.spec.seconds(job.clips.final.shape[-1]), 3),
        "held_out": job.split == "validation",
        "verdict": verdict.grade(losses["judged"]),
        "losses": losses,
        "changes": {name: drawn[name].to(right) for name in changed if name in drawn},
        "to_followed": {
            name: drawn[name].to(drawn["followed"])
            for name in ("right", "other condition")
            if follows_mel
        },
        "followed": _strength(job, drawn["followed"]),
        "guidance": [
            _guidance_row(job, scale, drawn, follows_mel)
            for scale in GUIDANCE
            if model.condition.dropout > 0
        ],
    }


def _guidance_row(
    job: Job, scale: float, drawn: Mapping[str, Drawn], follows_mel: bool
) -> dict[str, Any]:
    """What guidance by `scale` makes of the samples with the right condition."""
    samples = drawn[f"guidance {scale:g}"]
    return {
        "scale": scale,
        "from_free": samples.to(drawn[f"guidance {GUIDANCE[0]:g}"])["latents"],
        "to_followed": samples.to(drawn["followed"])["latents"] if follows_mel else None,
        **_strength(job, samples),
    }


def _strength(job: Job, samples: Drawn) -> dict[str, float | None]:
    """Spread over that of the training latents, and level in dBFS."""
    deviation = job.model.whitening.variance.cpu().sqrt()[:, None]
    return {
        "spread": round(float((samples.final / deviation).square().mean().sqrt()), 4),
        "level_db": None if samples.clips is None else level_of(samples.clips),
    }
