"""Scores of form: sets of clips, and fakes made of real clips, each described clip by clip.

Shapes: B clips, C latent channels, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from latentdiff.evaluation import controls, embeddings, movement, sets, windows
from latentdiff.evaluation.coherence import Beat, Coherence, Continuity, Horizon
from latentdiff.evaluation.controls import Control
from latentdiff.evaluation.heard import Heard
from latentdiff.evaluation.places import Places
from latentdiff.evaluation.scores import (
    Described,
    FormScores,
    Interval,
    Reference,
    score,
    score_form,
)
from latentdiff.evaluation.wandering import STRETCH_SECONDS, Wandering, wandering
from latentdiff.model.evaluate.inputs import Comparison
from latentdiff.model.evaluate.latents import LatentSet
from latentdiff.model.evaluate.sound import DecodedSet

SCALE = (sets.REFERENCE, sets.HELD_OUT, sets.WHITE)
"""The sets that a score is made from, beside those that are scored."""

T = TypeVar("T")
Sets = Mapping[str, T]


def latent_clips(ground: Comparison, found: Sets[LatentSet]) -> dict[str, Tensor]:
    """Final latents [B, C, T] of every set, fakes included, as long as the real clips."""
    # As final latents, KEPT is the same as OTHER.
    real = {
        name: one.final[..., : ground.clips.frames]
        for name, one in found.items()
        if name != sets.KEPT
    }
    rate = ground.frame_rate

    def fake(control: Control) -> Tensor:
        return control(real[sets.OTHER], rate, ground.generator("controls"))

    return _in_order(real, {name: fake(one) for name, one in _controls(ground).items()})


def heard_clips(ground: Comparison, decoded: Sets[DecodedSet]) -> dict[str, Heard]:
    """The sound of every set, fakes included."""
    real = {name: one.heard for name, one in decoded.items()}

    def fake(control: Control) -> Heard:
        generator = ground.generator("controls")
        return real[sets.OTHER].altered(lambda x, rate: control(x, rate, generator))

    return _in_order(real, {name: fake(one) for name, one in _controls(ground).items()})


def _controls(ground: Comparison) -> Mapping[str, Control]:
    return controls.all_controls(1 / ground.frame_rate)


def _in_order(real: Sets[T], fakes: Sets[T]) -> dict[str, T]:
    """In the order of the table."""
    first = {name: real[name] for name in (sets.REFERENCE, *sets.FIRST) if name in real}
    return {**first, **fakes, sets.WHITE: real[sets.WHITE]}


def score_latents(ground: Comparison, clips: Sets[Tensor]) -> FormScores:
    """Scores by final latents."""
    short = {name: windows.features(x) for name, x in clips.items()}
    return _scores(ground, describe_latents(ground, clips), short)


def score_sound(ground: Comparison, heard: Sets[Heard]) -> FormScores:
    """Scores by what is heard."""
    # Frames of spectrograms overlap; every fourth is as fine as latents are.
    short = {name: windows.features(one.levels.values[..., ::4]) for name, one in heard.items()}
    return _scores(ground, describe_heard(ground, heard), short)


def score_embeddings(ground: Comparison, decoded: Sets[DecodedSet]) -> dict[str, FormScores]:
    """Scores by each embedding, without fakes."""
    found = {}
    for plugin in decoded[sets.REFERENCE].embedded:
        embedded = _in_order({name: one.embedded[plugin] for name, one in decoded.items()}, {})
        described = {
            name: Described({plugin: embeddings.describe(x)}, _places(ground, name))
            for name, x in embedded.items()
        }
        frames = {name: torch.cat(x) for name, x in embedded.items()}
        found[plugin] = _scores(ground, described, frames)
    return found


def describe_latents(ground: Comparison, clips: Sets[Tensor]) -> dict[str, Described]:
    """Sets by the features of their final latents."""
    rate = ground.frame_rate
    return {
        name: Described(movement.describe_latents(x, rate), _places(ground, name))
        for name, x in clips.items()
    }


def describe_heard(ground: Comparison, heard: Sets[Heard]) -> dict[str, Described]:
    """Sets by the features of their sound."""
    return {name: Described(one.describe(), _places(ground, name)) for name, one in heard.items()}


def sample_score(ground: Comparison, described: Sets[Described]) -> Interval:
    """The joint score of SAMPLES among these sets, of which the others are those of SCALE."""
    others = {name: clips for name, clips in described.items() if name != sets.REFERENCE}
    generator = ground.generator("scores")
    line = score(
        Reference(described[sets.REFERENCE]), others, sets.WHITE, _held_out(others), generator
    )
    return line.scores[sets.SAMPLES]


def _scores(ground: Comparison, described: Sets[Described], short: Sets[Tensor]) -> FormScores:
    generator, held_out = ground.generator("scores"), _held_out(described)
    return score_form(described, sets.REFERENCE, sets.WHITE, held_out, short, generator)


def _held_out(described: Sets[Described]) -> str | None:
    return sets.HELD_OUT if sets.HELD_OUT in described else None


def _places(ground: Comparison, name: str) -> Places | None:
    """Where the clips of a set were cut; None for clips that share no sound with recordings."""
    clips = ground.clips
    if name in (sets.SAMPLES, sets.FOLLOWING, sets.WHITE, *controls.UNPLACED):
        return None
    if name == sets.HELD_OUT and clips.held_out is not None:
        return clips.held_out.overlapping
    return (clips.reference if name == sets.REFERENCE else clips.other).overlapping


def coherence(
    ground: Comparison, latents: Sets[Tensor], heard: Sets[Heard]
) -> dict[str, Coherence]:
    """How long each set stays one piece, and keeps its beat (None without sound)."""
    generator, rate = ground.generator("coherence"), ground.frame_rate
    continuity = Continuity(latents[sets.REFERENCE], rate, generator)
    lasting = {name: continuity.horizon(x) for name, x in latents.items()}
    beats: dict[str, Horizon | None] = {}
    if heard:
        beat = Beat(heard[sets.REFERENCE].onsets, generator)
        beats = {name: beat.horizon(one.onsets) for name, one in heard.items()}
    names = [name for name in latents if name != sets.REFERENCE]
    return {name: Coherence(lasting[name], beats.get(name)) for name in names}


def wander(ground: Comparison, latents: Sets[Tensor]) -> dict[str, Wandering]:
    """Deviations of each set within and between clips; empty if clips are too short."""
    generator, rate = ground.generator("wandering"), ground.frame_rate
    real = latents[sets.REFERENCE]
    if len(real) < 2 or real.shape[-1] < 2 * max(1, round(STRETCH_SECONDS * rate)):
        return {}
    return {
        name: wandering(x, real, rate, generator)
        for name, x in latents.items()
        if name != sets.REFERENCE and len(x) > 1
    }
