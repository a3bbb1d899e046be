"""What is measured on decoded clips.

Shapes: B clips, D latent dimensions, F features, n windows, N audio samples, T frames of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.evaluation import compare, embeddings, mel
from latentdiff.evaluation.compare import Comparison
from latentdiff.evaluation.sound import SILENT_DB, level_db, spectral_distance
from latentdiff.model.clips import decode, original
from latentdiff.model.evaluate.inputs import EvaluationInputs
from latentdiff.model.evaluate.latents import LatentSet
from latentdiff.model.evaluate.results import ConditionFollowing, Examples, Level, Levels
from latentdiff.specs import Codec

EXAMPLES = 4
"""Clips per set that are kept as sound."""
DIGITAL_SILENCE_DB = -200.0
"""Stands for the level of digital silence, which is not finite."""


@dataclass(frozen=True)
class DecodedSet:
    """Features and levels of a set of decoded clips; the audio of the first few only."""

    mels: Tensor
    """[B, bands, frames] log-mel spectrograms in dB."""
    levels: list[float]
    """[B] RMS in dBFS."""
    features: dict[str, Tensor]
    """Features [n, F] by embedding."""
    sounds: list[NDArray[np.float32]]
    """The first EXAMPLES, [channels, N] each."""

    def examples(self) -> Examples:
        """The first EXAMPLES."""
        return Examples(self.sounds, self.mels[:EXAMPLES])


def decode_set(inputs: EvaluationInputs, codec: Codec, name: str, latents: LatentSet) -> DecodedSet:
    """Decode a set of clips. Raises UserError if an embedding fails."""
    clips = decode(codec, latents.raw, inputs.settings.latents, name)
    return DecodedSet(
        mels=mel.log_mels(clips, codec.sample_rate),
        levels=[level_db(clip) for clip in clips],
        features={
            plugin: embeddings.embed(plugin, function, clips, codec.sample_rate)
            for plugin, function in inputs.settings.embeddings.items()
        },
        sounds=clips[:EXAMPLES],
    )


def compare_mels(sets: Mapping[str, DecodedSet]) -> Comparison:
    """Compare sets by their log-mel spectrograms."""
    return compare.compare_clips({name: decoded.mels for name, decoded in sets.items()})


def compare_other_samples(
    inputs: EvaluationInputs, codec: Codec, samples: LatentSet, sets: Mapping[str, DecodedSet]
) -> Comparison:
    """Compare sets by their log-mel spectrograms, with other samples in place of SAMPLES."""
    clips = decode(codec, samples.raw, inputs.settings.latents, "samples of other steps")
    mels = {name: decoded.mels for name, decoded in sets.items()}
    return compare.compare_clips({**mels, compare.SAMPLES: mel.log_mels(clips, codec.sample_rate)})


def compare_embeddings(
    inputs: EvaluationInputs, sets: Mapping[str, DecodedSet]
) -> dict[str, Comparison]:
    """Compare sets by each embedding."""
    return {
        plugin: compare.compare({name: decoded.features[plugin] for name, decoded in sets.items()})
        for plugin in inputs.settings.embeddings
    }


def levels(sets: Mapping[str, DecodedSet]) -> Levels:
    """Levels of the samples and of the decoded training clips."""
    training = sets[compare.REFERENCE].levels + sets[compare.OTHER].levels
    return Levels(_level(sets[compare.SAMPLES].levels), _level(training))


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
