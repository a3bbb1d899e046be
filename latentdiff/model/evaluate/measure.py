"""Evaluating a model: all measures together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latentdiff.audio import AudioError
from latentdiff.evaluation import sets
from latentdiff.evaluation.scores import Described
from latentdiff.latents.store import LatentStore
from latentdiff.model.clips import NO_CODEC, ClipSets
from latentdiff.model.condition_inputs import followed_kinds
from latentdiff.model.evaluate import form, latents, sound
from latentdiff.model.evaluate.inputs import EvaluationInputs, EvaluationSettings
from latentdiff.model.evaluate.latents import LatentSet
from latentdiff.model.evaluate.results import (
    ConditionFollowing,
    Copying,
    EvaluationResult,
    SamplingFacts,
    StepScore,
)
from latentdiff.model.evaluate.skill import held_out_skill
from latentdiff.model.evaluate.sound import DecodedSet
from latentdiff.model.model import Model
from latentdiff.specs import Codec

NO_HELD_OUT = "skill was not measured: no file is held out"
FIXED_CALLS = "numbers of steps were not compared: the model makes {} for any number"


def evaluate_model(
    model: Model,
    store: LatentStore,
    clips: ClipSets,
    codec: Codec | None = None,
    settings: EvaluationSettings | None = None,
    scratch: Path | None = None,
) -> EvaluationResult:
    """Measure a model on held-out files, and its samples beside real clips.

    `store` holds the latents it was trained on, `clips` come from `choose_clips`. Without a codec
    only latents are compared. `scratch` is a folder for latents that exceed training.memory_gb
    (None: all are held in memory); nothing else is written. What cannot be measured is listed in
    the result's `skipped`.

    Raises UserError if the store lacks labels or features that the model follows, or an embedding
    fails, and NonFiniteSamples.
    """
    settings = settings or EvaluationSettings()
    inputs = EvaluationInputs(model, store, clips, codec, settings, scratch)
    skipped: list[str] = []
    distilled = model.spec.distilled
    held_out = None if distilled else held_out_skill(inputs)
    if held_out is None and distilled is None:
        skipped.append(NO_HELD_OUT)
    samples = latents.draw_samples(inputs, settings.sampling, settings.n, clips.other)
    following = latents.draw_following_held_out(inputs)
    judged = samples if following is None else following
    found = latents.real_and_drawn(inputs, samples, following)
    decoded: dict[str, DecodedSet] = {}
    if codec is None:
        skipped.append(NO_CODEC)
    else:
        decoded = {k: sound.decode_set(inputs, codec, k, one) for k, one in found.items()}
    ground = inputs.comparison
    latent_clips = form.latent_clips(ground, found)
    heard_clips = form.heard_clips(ground, decoded) if decoded else {}
    copies = latents.find_copies(inputs, judged)
    return EvaluationResult(
        checkpoint=model.name,
        step=model.step,
        samples=settings.n,
        seconds=model.spec.seconds(inputs.sample_frames),
        clip_seconds=model.spec.seconds(clips.frames),
        window_seconds=model.spec.seconds(model.spec.window),
        clips=len(clips.reference),
        held_out=held_out,
        calls=samples.network_calls,
        sampling=_sampling_facts(inputs),
        latents=form.score_latents(ground, latent_clips),
        sound=form.score_sound(ground, heard_clips) if heard_clips else None,
        embeddings=form.score_embeddings(ground, decoded) if decoded else {},
        coherence=form.coherence(ground, latent_clips, heard_clips),
        wandering=form.wander(ground, latent_clips),
        spread=latents.spread(inputs, samples),
        copying=Copying.of(copies, model.spec.seconds(copies.window_frames)),
        level=sound.levels(decoded) if decoded else None,
        condition=_condition_following(inputs, judged, skipped),
        steps=_step_scores(inputs, found, decoded, skipped),
        skipped=skipped,
        distilled=None if distilled is None else distilled.describe(),
        examples={name: each.sounds for name, each in decoded.items()},
    )


def _sampling_facts(inputs: EvaluationInputs) -> SamplingFacts:
    condition, fixed = inputs.model.condition, inputs.model.spec.has_fixed_calls
    settings = inputs.model.resolve(inputs.settings.sampling)
    return SamplingFacts(
        steps=settings.steps,
        guidance=settings.guidance,
        can_guide=bool(inputs.model.kinds) and condition.dropout > 0 and not fixed,
        autoguidance=float(settings.autoguidance),
        fixed_calls=fixed,
    )


def _condition_following(
    inputs: EvaluationInputs, samples: LatentSet, skipped: list[str]
) -> ConditionFollowing | None:
    """None, and a line in `skipped`, where recordings cannot be read."""
    if inputs.codec is None or not followed_kinds(inputs.model):
        return None
    try:
        return sound.condition_following(inputs, inputs.codec, samples)
    except AudioError as error:
        skipped.append(f"samples were not compared with the recordings they follow: {error}")
        return None


def _step_scores(
    inputs: EvaluationInputs,
    found: Mapping[str, LatentSet],
    decoded: Mapping[str, DecodedSet],
    skipped: list[str],
) -> list[StepScore]:
    if not inputs.settings.steps:
        return []
    if inputs.model.spec.has_fixed_calls:
        calls = found[sets.SAMPLES].network_calls
        skipped.append(FIXED_CALLS.format(f"{calls} network call{'s' if calls > 1 else ''}"))
        return []
    ground, scale = inputs.comparison, [name for name in form.SCALE if name in found]
    latent_scale = form.describe_latents(ground, {name: found[name].final for name in scale})
    sound_scale = (
        form.describe_heard(ground, {name: decoded[name].heard for name in scale})
        if decoded
        else {}
    )
    return [
        _step_score(inputs, steps, latent_scale, sound_scale) for steps in inputs.settings.steps
    ]


def _step_score(
    inputs: EvaluationInputs,
    steps: int,
    latent_scale: Mapping[str, Described],
    sound_scale: Mapping[str, Described],
) -> StepScore:
    """Scores of samples from the same seeds, drawn in `steps` steps."""
    settings = inputs.settings.sampling.model_copy(update={"steps": steps})
    samples = latents.draw_samples(inputs, settings, inputs.settings.n, inputs.clips.other)
    ground, frames = inputs.comparison, inputs.clips.frames
    ours = form.describe_latents(ground, {sets.SAMPLES: samples.final[..., :frames]})
    by_latents = form.sample_score(ground, {**ours, **latent_scale})
    by_sound = None
    if inputs.codec is not None:
        decoded = sound.decode_set(inputs, inputs.codec, f"samples of {steps} steps", samples)
        ours = form.describe_heard(ground, {sets.SAMPLES: decoded.heard})
        by_sound = form.sample_score(ground, {**ours, **sound_scale})
    return StepScore(steps, samples.network_calls, by_latents, by_sound)
