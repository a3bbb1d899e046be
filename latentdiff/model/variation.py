"""Variations of a recording: samples that start from its latents and follow what it is like.

Shapes: C latent channels, D latent dimensions, T latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentdiff import audio, streaming
from latentdiff.diffusion.samplers import Start
from latentdiff.errors import UserError
from latentdiff.model.condition_inputs import ConditionInput, need_codec, recording_input
from latentdiff.model.model import Model
from latentdiff.specs import Codec

STRENGTH = 0.5
"""Of a variation, if none is given."""


@dataclass(frozen=True)
class Variation:
    """A recording to vary."""

    latents: Tensor
    """[C, T], final."""
    unseen: Tensor
    """[D, T]: what the network does not see of the raw latents."""
    strength: float
    """Share 0..1 of the sampler's steps that are taken."""
    follows: ConditionInput
    """The recording as a condition: a sample keeps its style, beat and so on, where the model
    follows these and nothing else is asked for."""

    @classmethod
    def of(
        cls, model: Model, codec: Codec | None, path: Path, strength: float, seconds: float | None
    ) -> Variation:
        """The first `seconds` of the recording at `path` (None: all of it), to be varied.

        Raises UserError if the model cannot vary it, AudioError if it cannot be read.
        """
        _check(model, strength)
        codec = need_codec(codec, path)
        samples, _ = audio.read(path, codec.sample_rate, codec.channels)
        if seconds is not None:
            samples = samples[:, : round(seconds * codec.sample_rate)]
        raw = torch.from_numpy(streaming.encode(codec, samples)[0])
        final = model.whiten(raw)
        seen = model.unwhiten(final, "mean", torch.Generator())
        follows = recording_input(model, path, final.shape[-1])
        return cls(final, raw - seen, strength, follows)

    @property
    def frames(self) -> int:
        """T."""
        return self.latents.shape[-1]

    def start(self, count: int) -> Start:
        """What `count` samples start from."""
        return Start(self.latents.expand(count, -1, -1), self.strength)

    def raw(self, model: Model, final: Tensor) -> Tensor:
        """Raw latents [D, T] of a variation [C, T]: those of the recording at strength 0."""
        seen = model.unwhiten(final, "mean", torch.Generator())
        return seen + (1 - self.strength) * self.unseen

    def following(self, asked: Sequence[ConditionInput]) -> list[ConditionInput]:
        """The recording as a condition, together with each of those asked for, which win."""
        return [
            replace(
                self.follows,
                name=f"{self.follows.name}-{each.name}" if each.source else self.follows.name,
                features={**self.follows.features, **_cut(each, self.frames)},
                categories=each.categories,
            )
            for each in asked
        ]


def _cut(asked: ConditionInput, frames: int) -> dict[str, np.ndarray]:
    if asked.features and asked.frames < frames:
        raise UserError(
            f"{asked.source} is shorter than the recording to vary",
            do_this="give --seconds, or a longer recording to follow.",
        )
    return {kind: x[:, :frames] for kind, x in asked.features.items()}


def _check(model: Model, strength: float) -> None:
    if not 0 <= strength <= 1:
        raise UserError(
            f"a strength of {strength:g} is impossible",
            why="it is the share of the steps that are taken: 0 gives the recording back, 1 a new "
            "sample that only follows it",
            do_this="give a strength from 0 to 1, such as 0.4.",
        )
    if model.spec.is_regression:
        raise UserError(
            "this model cannot vary recordings",
            why="it is a regression, which takes a single step",
            do_this="train one with another diffusion.parametrisation.",
        )
