"""What is measured on decoded clips.

Shapes: B clips, F features, N audio samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.evaluation import embeddings, sets
from latentdiff.evaluation.heard import Heard, hear
from latentdiff.evaluation.sound import SILENT_DB, level_db, spectral_distance
from latentdiff.model.clips import decode, original
from latentdiff.model.evaluate.inputs import EvaluationInputs
from latentdiff.model.evaluate.latents import LatentSet
from latentdiff.model.evaluate.results import ConditionFollowing, Level, Levels
from latentdiff.specs import Codec

EXAMPLES = 4
"""Clips per set that are kept as sound."""
DIGITAL_SILENCE_DB = -200.0
"""Stands for the level of digital silence, which is not finite."""


@dataclass(frozen=True)
class DecodedSet:
    """What is measured of a set of decoded clips; the audio of the first few only."""

    heard: Heard
    levels: list[float]
    """[B] RMS in dBFS."""
    embedded: dict[str, list[Tensor]]
    """Features [frames, F] of each clip by embedding."""
    sounds: list[NDArray[np.float32]]
    """The first EXAMPLES, [channels, N] each."""


def decode_set(inputs: EvaluationInputs, codec: Codec, name: str, latents: LatentSet) -> DecodedSet:
    """Decode a set of clips. Raises UserError if an embedding fails."""
    clips = decode(codec, latents.raw, inputs.settings.latents, name)
    # Samples may be longer than real clips; what is compared is as long as these.
    compared = [clip[:, : inputs.clips.frames * codec.hop] for clip in clips]
    return DecodedSet(
        heard=hear(compared, codec.sample_rate),
        levels=[level_db(clip) for clip in clips],
        embedded={
            plugin: embeddings.embed(plugin, function, compared, codec.sample_rate)
            for plugin, function in inputs.settings.embeddings.items()
        },
        sounds=clips[:EXAMPLES],
    )


def levels(decoded: Mapping[str, DecodedSet]) -> Levels:
    """Levels of the samples and of the decoded training clips."""
    training = decoded[sets.REFERENCE].levels + decoded[sets.OTHER].levels
    return Levels(_level(decoded[sets.SAMPLES].levels), _level(training))


def _level(levels: Sequence[float]) -> Level:
    finite = [max(DIGITAL_SILENCE_DB, level) for level in levels]
    return Level(
        median_db=float(np.median(finite)),
        quietest_db=min(finite),
        loudest_db=max(finite),
        silent=sum(level < SILENT_DB for level in levels),
        clips=len(levels),
        each_db=finite,
    )


def condition_following(
    inputs: EvaluationInputs, codec: Codec, samples: LatentSet
) -> ConditionFollowing:
    """Distance of samples to the recordings they follow: held-out ones if there are any.

    Raises AudioError if a recording cannot be read.
    """
    followed, settings = inputs.clips.held_out or inputs.clips.other, inputs.settings.latents
    count = min(len(followed), len(samples.raw))
    recordings = [original(p, inputs.clips.frames, codec) for p in followed.places[:count]]
    sounds = decode(codec, samples.raw[:count], settings, "samples that follow a condition")
    coded = decode(codec, followed.raw[:count], settings, "the clips they follow")
    # Half a set away, so mostly of another file.
    wrong = recordings[count // 2 :] + recordings[: count // 2]
    return ConditionFollowing(
        clips=count,
        held_out=followed is inputs.clips.held_out,
        right_db=_mean_distance(sounds, recordings),
        codec_db=_mean_distance(coded, recordings),
        wrong_db=_mean_distance(sounds, wrong) if count > 1 else None,
    )


def _mean_distance(a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> float:
    return float(np.mean([spectral_distance(x, y) for x, y in zip(a, b, strict=True)]))
