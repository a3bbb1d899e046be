"""`diagnose conditioning`: does the model follow its condition?

Shapes: B clips, C latent channels, D latent dimensions, K condition features, N audio samples, T
frames of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from latentdiff.conditions.registry import KINDS
from latentdiff.diagnose.conditioning import picture
from latentdiff.diagnose.conditioning.losses import exchanged, judge, measure_losses
from latentdiff.diagnose.conditioning.report import text
from latentdiff.diagnose.conditioning.results import Difference, GuidanceRow, Results, Strength
from latentdiff.diagnose.listening import distance_of, level_of, wavs
from latentdiff.diagnose.report import Report, run_question
from latentdiff.errors import UserError
from latentdiff.evaluation import windows
from latentdiff.evaluation.difference import relative
from latentdiff.latents.store import LatentStore
from latentdiff.model import clips as real_clips
from latentdiff.model.clips import CLIP_SECONDS, NO_CODEC, Clips
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.resolve import inputs_of, open_codec, open_model
from latentdiff.model.sampling import draw
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Run
from latentdiff.specs import Condition
from latentdiff.training.data import generator_for, seed_of
from latentdiff.training.fabric import pick_device
from latentdiff.training.settings import VALIDATION

NAME = "conditioning"
GUIDANCE = (0.0, 1.0, 2.0, 4.0)
"""Guidance scales to compare; 0 ignores the condition, 1 is no guidance."""
CHANGED = ("other condition", *(f"other {kind}" for kind in KINDS), "other noise", "both other")
"""Sets of samples that are compared with `right`, where they were drawn."""


@dataclass(frozen=True)
class SampleSet:
    """Clips of one kind, real or drawn."""

    latents: Tensor
    """[B, C, T], final."""
    sounds: list[np.ndarray] | None
    """[channels, N] each; None without a codec."""

    def difference(self, other: SampleSet) -> Difference:
        """How unlike `other` these are, clip by clip."""
        sound_db = None
        if self.sounds is not None and other.sounds is not None:
            sound_db = distance_of(self.sounds, other.sounds)
        return Difference(round(relative(self.latents, other.latents), 4), sound_db)


@dataclass(frozen=True)
class Setup:
    """A conditioned model, and real clips whose conditions it is given."""

    model: Model
    store: LatentStore
    codec: RaveCodec | None
    """None: only latents are compared, no sounds."""
    project: Project
    clips: Clips
    condition: Condition
    """Features [B, K, T] and labels [B] of the clips."""
    scratch: Path
    """Folder for latents that do not fit in memory."""

    @property
    def split(self) -> str:
        """Which files the clips are from."""
        return self.clips.places[0].entry.split

    def sample(
        self, condition: Condition, noise: str = "noise", guidance: float | None = None
    ) -> Tensor:
        """Final latents [B, C, T], as long as the clips; the same noise for the same `noise`."""
        settings = self.project.sampling
        if guidance is not None:
            settings = settings.model_copy(update={"guidance": guidance})
        count, frames = len(self.clips.places), self.clips.final.shape[-1]
        seeds = [seed_of(self.project.seed, NAME, noise, k) for k in range(count)]
        return draw(self.model, settings, seeds, frames, condition).latents

    def decode(self, final: Tensor, what: str) -> SampleSet:
        """The latents with their sounds."""
        if self.codec is None:
            return SampleSet(final, None)
        fill = generator_for(self.project.seed, NAME, "fill")
        raw = self.model.unwhiten(final, self.project.sampling.fill, fill)
        return SampleSet(final, real_clips.decode(self.codec, raw, self.project.latents, what))

    def strength(self, samples: SampleSet) -> Strength:
        """Strength of the clips compared with the training latents."""
        deviation = self.model.whitening.variance.cpu().sqrt()[:, None]
        return Strength(
            round(float((samples.latents / deviation).square().mean().sqrt()), 4),
            None if samples.sounds is None else level_of(samples.sounds),
        )


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

    Returns what could not be measured. Raises UserError for a model without a condition.
    """
    device = pick_device(project.device)
    model, store = open_model(run, diffusion, latents, device)
    if not model.kinds:
        raise UserError(
            f"{model.path} follows no condition",
            why="it was trained with condition.kinds=none",
            do_this="train one with condition.kinds=style,beat, mel or label.",
        )
    model.task()  # a distilled model, which has no losses to compare, is refused now
    codec = open_codec(run, store, rave, ckpt, device)
    directory = run.diagnosis / NAME
    run_question(
        NAME,
        Results,
        lambda: _report(_setup(model, store, codec, project, n, seconds, directory)),
        directory,
        settings={
            "sampling": project.sampling.model_dump(mode="json"),
            "training": project.training.model_dump(include=set(VALIDATION)),
            "seed": project.seed,
            "n": n,
            "seconds": seconds,
        },
        inputs=inputs_of(model, store, codec),
        seed=project.seed,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return [] if codec is not None else [NO_CODEC]


def _setup(
    model: Model,
    store: LatentStore,
    codec: RaveCodec | None,
    project: Project,
    n: int,
    seconds: float,
    scratch: Path,
) -> Setup:
    """The model with clips of held-out files, or of training files if none are held out."""
    entries = store.of("validation") or store.of("train")
    wanted = model.spec.frames(seconds)
    frames = real_clips.shortened(entries, wanted, min(n, real_clips.FEWEST))
    places = real_clips.places_in(entries, frames)
    if len(places) < 2:
        raise UserError(
            f"the files of {store.root} are too short to compare conditions",
            why=f"they hold {len(places)} clips of {frames} frames; at least 2 are needed",
            do_this="add recordings, then preprocess and encode again.",
        )
    places = [places[k] for k in windows.spread(len(places), n)]
    clips = real_clips.read(model, store, places, frames)
    condition = real_clips.conditions(model, store, clips)
    return Setup(model, store, codec, project, clips, condition, scratch)


def _report(setup: Setup) -> Report[Results]:
    samples = _sample_all(setup)
    results = _results(setup, samples)
    sounds = {name: x.sounds for name, x in samples.items() if x.sounds is not None}
    files = {
        f"{NAME}.png": lambda path: picture.draw(path, results),
        **wavs(sounds, setup.model.codec.sample_rate),
    }
    return Report(results, text(results), files)


def _sample_all(setup: Setup) -> dict[str, SampleSet]:
    """Every set of samples by name, and the clips themselves as `followed`."""
    condition, labels = setup.condition, len(setup.model.labels)
    wrong = exchanged(condition, labels)
    latents = {
        "followed": setup.clips.final,
        "right": setup.sample(condition),
        "other condition": setup.sample(wrong),
        "other noise": setup.sample(condition, "other noise"),
        "both other": setup.sample(wrong, "other noise"),
    }
    if len(setup.model.kinds) > 1:
        for kind in setup.model.kinds:
            latents[f"other {kind}"] = setup.sample(exchanged(condition, labels, kind))
    for scale in _scales(setup.model):
        latents[f"guidance {scale:g}"] = setup.sample(condition, guidance=scale)
    return {name: setup.decode(final, name) for name, final in latents.items()}


def _scales(model: Model) -> tuple[float, ...]:
    """Guidance needs a model that was also trained without its condition."""
    return GUIDANCE if model.condition.dropout > 0 else ()


def _results(setup: Setup, samples: Mapping[str, SampleSet]) -> Results:
    model, right, clips = setup.model, samples["right"], samples["followed"]
    measured = model, setup.store, setup.split, setup.project.training, setup.scratch
    near = ("right", "other condition") if model.standardisers else ()
    return Results(
        checkpoint=str(model.path),
        step=model.step,
        kinds=list(model.kinds),
        clips=len(setup.clips.places),
        clip_seconds=round(model.spec.seconds(clips.latents.shape[-1]), 3),
        held_out=setup.split == "validation",
        judged=judge(*measured),
        losses=measure_losses(*measured),
        changes={name: samples[name].difference(right) for name in CHANGED if name in samples},
        to_followed={name: samples[name].difference(clips) for name in near},
        followed=setup.strength(clips),
        guidance=[_guidance_row(setup, scale, samples) for scale in _scales(model)],
    )


def _guidance_row(setup: Setup, scale: float, samples: Mapping[str, SampleSet]) -> GuidanceRow:
    guided, free = samples[f"guidance {scale:g}"], samples[f"guidance {GUIDANCE[0]:g}"]
    strength = setup.strength(guided)
    by_features = bool(setup.model.standardisers)
    return GuidanceRow(
        spread=strength.spread,
        level_db=strength.level_db,
        scale=scale,
        from_free=guided.difference(free).latents,
        to_followed=guided.difference(samples["followed"]).latents if by_features else None,
    )
