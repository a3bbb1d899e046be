"""The conditions of samples in full: what was asked for, and the rest from the training files.

Shapes: C latent channels, K condition features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from latentdiff import audio, streaming
from latentdiff.conditions.kind import FeatureKind, LatentKind, Sound, Target
from latentdiff.conditions.label import Label
from latentdiff.conditions.registry import KINDS, options
from latentdiff.errors import UserError
from latentdiff.model.condition_inputs import (
    FREE,
    ConditionInput,
    given_inputs,
    need_codec,
    recording,
)
from latentdiff.model.model import Model
from latentdiff.specs import Codec
from latentdiff.training.data import generator_for

T = TypeVar("T")

STYLE_SECONDS = 120.0
"""Seconds at the end of a recording that are encoded to describe it, at most."""

Options = Mapping[str, Sequence[str]]
"""What was asked for by the options of condition kinds, such as {"bpm": ["125"]}."""


@dataclass(frozen=True)
class ConditionMaker:
    """Makes the conditions of samples.

    A kind that can be drawn, such as a style, is taken from the training files where it was not
    asked for: all kinds from one file, which the sample's seed picks. A sample that follows a
    recording has its style and its beat. So what belongs together stays together.
    """

    model: Model
    options: Options = field(default_factory=dict)
    codec: Callable[[], Codec | None] = lambda: None
    """Opens the codec, to describe recordings; None: it was not found."""
    _known: dict[tuple[str, str], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError for options of kinds that the model does not follow."""
        for kind, option in options():
            words = self.options.get(option.name, ())
            if words and kind not in self.model.kinds:
                follows = ",".join(self.model.kinds) or "none"
                raise UserError(
                    f"this model cannot follow --{option.name}",
                    why=f"it was trained with condition.kinds={follows}",
                    do_this=f"leave it out, or train a model with {kind} among its kinds.",
                )
            if len(words) > 1 and not option.repeatable:
                raise UserError(
                    f"--{option.name} takes one value",
                    why=f"{len(words)} were given: {', '.join(words)}",
                    do_this="draw samples once for each.",
                )

    def given(
        self, given: Sequence[Path], seconds: float | None
    ) -> tuple[list[ConditionInput], list[str]]:
        """See `given_inputs`."""
        return given_inputs(self.model, given, seconds)

    def complete(
        self, given: ConditionInput, seed: int, frames: int, file: str | None = None
    ) -> ConditionInput:
        """The conditions of the sample with this seed, of `frames` latent frames.

        `file`: key of the training file that what was not asked for is taken from; None, or one
        that is unknown: the seed picks.
        """
        reference, key = self._reference(given, seed, file)
        made: dict[str, np.ndarray] = {}
        target = Target(
            self.model.codec.frame_rate,
            frames,
            self.options,
            reference,
            self._recording,
            self._latents,
            self._of_file,
            made,
        )
        standardised = dict(given.features)
        for name, kind in self.model.kinds.items():
            if name in given.features and not self._asked_for(name):
                made[name] = self.model.standardisers[name].inverse(given.features[name])
                continue
            features = kind.make(target)
            if features is not None:
                made[name] = features
                standardised[name] = self.model.standardisers[name](features)
        name = given.name if given.name != FREE or key is None else audio.readable_stem(key)
        return replace(given, name=name, features=standardised)

    def batch(
        self, seeds: Sequence[int], frames: int, files: Sequence[str | None] = (None,)
    ) -> list[ConditionInput]:
        """The conditions of samples that nothing was asked for but by the options.

        `files`: see `complete`; they are taken in turn.
        """
        return [
            self.complete(ConditionInput(), seed, frames, files[k % len(files)])
            for k, seed in enumerate(seeds)
        ]

    def _reference(
        self, given: ConditionInput, seed: int, file: str | None
    ) -> tuple[Mapping[str, np.ndarray | None], str | None]:
        """What fills in for kinds that were not asked for, and its file's key."""
        if given.recording is not None:
            return self._style_of(given.recording), None
        references = self.model.references

        def is_key(word: str) -> bool:
            return references.find(word) is not None

        named = [kind.names_file(self.options, is_key) for kind in self.model.kinds.values()]
        for name in filter(None, named):
            index = None if Path(name).is_file() else references.find(name)
            if index is None:
                return self._describe(Path(name)), Path(name).stem
            return references.at(index), Path(references.keys[index]).stem
        rows = self._rows(given)
        if not len(rows):
            return {}, None
        index = None if file is None else references.find(file)
        if index is None:
            pick = torch.randint(len(rows), (1,), generator=generator_for(seed, "reference"))
            index = int(rows[int(pick)])
        return references.at(index), Path(references.keys[index]).stem

    def _asked_for(self, kind: str) -> bool:
        return any(self.options.get(option.name) for option in KINDS[kind].options)

    def _style_of(self, path: Path) -> Mapping[str, np.ndarray | None]:
        """Kind -> what describes a recording, for kinds of its latents that were not asked for;
        empty without a codec."""
        kinds = [
            kind
            for kind in self.model.kinds.values()
            if isinstance(kind, LatentKind) and not self._asked_for(kind.name)
        ]
        if not kinds or self._opened is None:
            return {}
        rate = self.model.codec.frame_rate
        return {kind.name: kind.describe(self._latents(path), rate) for kind in kinds}

    def _describe(self, path: Path) -> Mapping[str, np.ndarray | None]:
        """Kind -> what describes a recording, for kinds of features that the audio has."""
        return self._once("description", path, lambda: self._features_of(self._recording(path)))

    def _features_of(self, sound: Sound) -> dict[str, np.ndarray | None]:
        rate, described = self.model.codec.frame_rate, {}
        for kind in self.model.kinds.values():
            if isinstance(kind, FeatureKind) and kind.name in self.model.references.values:
                features = kind.features(sound, self.model.spec.frames(sound.seconds), rate)
                described[kind.name] = None if features is None else kind.describe(features)
        return described

    def _rows(self, given: ConditionInput) -> Sequence[int]:
        """Indices of the training files to draw from: those of the label, if one is followed."""
        references = self.model.references
        table, label = references.values.get(Label.name), given.categories.get(Label.name)
        if all(kind == Label.name for kind in references.values):
            return ()  # there are no features to draw
        if table is None or label is None:
            return range(len(references))
        rows: list[int] = np.flatnonzero(table[:, 0] == label).tolist()
        return rows

    def _recording(self, path: Path) -> Sound:
        return self._once("recording", path, lambda: recording(path))

    def _latents(self, path: Path) -> np.ndarray:
        return self._once("latents", path, lambda: self._encode(path))

    def _once(self, what: str, path: Path, make: Callable[[], T]) -> T:
        """What `make` returns, computed for the first of all samples."""
        key = (what, str(path))
        if key not in self._known:
            if not path.is_file():
                raise UserError(
                    f"there is no recording {path}",
                    why="" if what == "recording" else "and no training file of that name",
                    do_this=self._known_files(),
                )
            self._known[key] = make()
        known: T = self._known[key]
        return known

    def _known_files(self) -> str:
        keys = self.model.references.keys
        some = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        return f"the training files are {some}." if keys else "give the path of an audio file."

    def _encode(self, path: Path) -> np.ndarray:
        """Final latents [C, T] of the end of a recording."""
        codec = need_codec(self._opened, path)
        wanted = round(STYLE_SECONDS * codec.sample_rate)
        held = np.zeros((codec.channels, 0), np.float32)
        for block in audio.blocks(path, codec.sample_rate, codec.channels):
            held = np.concatenate([held, block], axis=1)[:, -wanted:]
        latents, _ = streaming.encode(codec, held)
        return self.model.whiten(torch.from_numpy(latents)).numpy()

    @cached_property
    def _opened(self) -> Codec | None:
        return self.codec()

    def _of_file(self, kind: str, key: str) -> np.ndarray | None:
        index = self.model.references.find(key)
        if index is None:
            raise KeyError(key)
        return self.model.references.at(index).get(kind)
