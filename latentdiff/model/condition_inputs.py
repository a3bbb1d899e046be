"""What samples follow: what was asked for, and what is drawn from the training files.

Shapes: B samples, C latent channels, K condition features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from latentdiff import audio
from latentdiff.audio import AudioError
from latentdiff.conditions.beat_tracker import SAMPLE_RATE, find_beats
from latentdiff.conditions.kind import FeatureKind, LatentKind, Sound
from latentdiff.conditions.label import Label
from latentdiff.conditions.labels import label_index
from latentdiff.errors import UserError
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.data import features_of, final_latents, label_of
from latentdiff.model.model import Model
from latentdiff.specs import Codec, Condition

FREE = "free"
"""Name of samples that follow nothing."""


@dataclass(frozen=True)
class ConditionInput:
    """The conditions of one sample."""

    name: str = FREE
    """Part of the sample's file name."""
    source: str | None = None
    """File or label, as it was given; None: none was."""
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Kind -> [K, T], standardised."""
    categories: Mapping[str, int] = field(default_factory=dict)
    """Kind -> index of the category, such as a label."""
    recording: Path | None = None
    """The recording that is followed; what it does not have, such as a beat, is not made up."""

    @property
    def frames(self) -> int:
        """T; 0 without features."""
        return min((x.shape[-1] for x in self.features.values()), default=0)


def as_condition(inputs: Sequence[ConditionInput]) -> Condition:
    """Inputs of one length as a batch; a sample without a kind that others have loses it alone."""
    values, given = {}, {}
    for kind in {kind: None for each in inputs for kind in each.features}:
        rows = [each.features.get(kind) for each in inputs]
        none = np.zeros_like(next(row for row in rows if row is not None))
        values[kind] = torch.from_numpy(np.stack([none if row is None else row for row in rows]))
        given[kind] = torch.tensor([row is not None for row in rows])
    for kind in {kind: None for each in inputs for kind in each.categories}:
        values[kind] = torch.tensor([each.categories.get(kind, 0) for each in inputs])
        given[kind] = torch.tensor([kind in each.categories for each in inputs])
    return Condition(values, {kind: mask for kind, mask in given.items() if not mask.all()})


def stored_input(
    model: Model, store: LatentStore, entry: Entry, start: int, frames: int
) -> ConditionInput:
    """The conditions at `frames` latent frames of a stored file, from `start` on."""
    part = slice(start, start + frames)
    features = {
        kind: np.array(x[:, part], dtype=np.float32)
        for kind, x in features_of(model, store, entry).items()
        if x is not None
    }
    for kind in model.kinds.values():
        if isinstance(kind, LatentKind):
            described = _describe(kind, model, store, entry)
            features[kind.name] = np.repeat(described[:, None], frames, axis=1)
    standardised = {kind: model.standardisers[kind](x) for kind, x in features.items()}
    label = label_of(model, entry)
    categories = {} if label is None else {Label.name: label}
    return ConditionInput(entry.key, entry.source, standardised, categories)


def _describe(kind: LatentKind, model: Model, store: LatentStore, entry: Entry) -> np.ndarray:
    """What describes a stored file, [k]: training files are remembered, others are read once."""
    index = model.references.find(entry.key)
    known = None if index is None else model.references.at(index).get(kind.name)
    if known is not None:
        return known
    file = kind.name, store.root / entry.mean
    described = model.described.get(file)
    if described is None:
        latents = final_latents(model, store, entry)
        described = model.described[file] = kind.describe(latents, model.codec.frame_rate)
    return described


def given_inputs(
    model: Model, given: Sequence[Path], seconds: float | None
) -> tuple[list[ConditionInput], list[str]]:
    """The recordings and labels to follow, and "path: reason" for files that could not be read.

    `given`: audio files or folders for a model that follows their features, names for one that
    follows labels; for one that follows both some of either, and each file is followed with each
    label. A file is followed for `seconds` or, None, to its end. Raises UserError where the model
    cannot follow what was given.
    """
    recordings, labels = followed_kinds(model), Label.name in model.kinds
    if not given:
        if model.kinds and model.condition.dropout == 0 and (recordings or labels):
            raise UserError(
                f"this model needs a condition ({', '.join(model.kinds)})",
                why="it was trained with condition.dropout=0, so it never ran without one",
                do_this=_choices(model),
            )
        return [ConditionInput()], []
    if not recordings and not labels:
        raise UserError(
            "this model follows no recording and no label",
            why=f"it was trained with condition.kinds={','.join(model.kinds) or 'none'}",
            do_this="leave --condition out, or train one with condition.kinds=mel.",
        )
    skipped: list[str] = []
    if not recordings:
        keyed = _label_inputs(model, given)
    elif labels:
        keyed, skipped = _combined_inputs(model, given, seconds)
    else:
        keyed, skipped = _recording_inputs(model, given, seconds)
    return _distinctly_named(keyed), skipped


def followed_kinds(model: Model) -> list[FeatureKind]:
    """The kinds of features that samples have only if a recording to follow is given."""
    return [
        kind
        for kind in model.kinds.values()
        if isinstance(kind, FeatureKind) and kind.name not in model.references.values
    ]


def recording(path: Path) -> Sound:
    """The recording in a file. Raises AudioError."""
    mono = audio.MonoAudio(path)
    return Sound(mono.blocks, mono.seconds, cache(lambda: find_beats(mono.blocks(SAMPLE_RATE))))


def need_codec(codec: Codec | None, path: Path) -> Codec:
    """The codec. Raises UserError if there is none to encode the recording at `path` with."""
    if codec is None:
        raise UserError(
            f"{path} cannot be encoded",
            why="the codec of the model was not found",
            do_this="name it with --rave.",
        )
    return codec


def _choices(model: Model) -> str:
    song = "--condition song.wav" if followed_kinds(model) else ""
    label = f"--condition with one of: {', '.join(model.labels)}" if model.labels else ""
    return " and ".join(part for part in (song, label) if part)


def _label_inputs(model: Model, names: Sequence[Path]) -> dict[str, ConditionInput]:
    """Inputs by label."""
    return {
        label: ConditionInput(
            audio.readable_stem(label),
            label,
            categories={Label.name: label_index(label, model.labels)},
        )
        for label in map(str, names)
    }


def _combined_inputs(
    model: Model, given: Sequence[Path], seconds: float | None
) -> tuple[dict[str, ConditionInput], list[str]]:
    """Each file with each label, by both. What is not the name of a file must be a label."""
    names = [path for path in given if str(path) in model.labels or not Path(path).exists()]
    labels = _label_inputs(model, names)
    files = [path for path in given if path not in names]
    if not labels or not files:
        missing = "label" if files else "recording"
        raise UserError(
            f"this model follows a recording and a label together, and no {missing} was given",
            do_this=_choices(model) + ".",
        )
    recordings, skipped = _recording_inputs(model, files, seconds)
    both = {
        f"{key}/{name}": replace(
            each, name=f"{each.name}-{label.name}", categories=label.categories
        )
        for key, each in recordings.items()
        for name, label in labels.items()
    }
    return both, skipped


def _distinctly_named(keyed: dict[str, ConditionInput]) -> list[ConditionInput]:
    """Inputs whose names, as parts of file names, are told apart by a hash of their keys."""
    names = audio.distinct_stems({key: each.name for key, each in keyed.items()})
    return [replace(each, name=names[key]) for key, each in keyed.items()]


def _recording_inputs(
    model: Model, given: Sequence[Path], seconds: float | None
) -> tuple[dict[str, ConditionInput], list[str]]:
    """Inputs by file key."""
    search = audio.find(given)
    skipped = [f"{path}: {reason}" for path, reason in search.skipped]
    inputs = {}
    for key, path in search.files:
        try:
            sound = recording(path)
            frames = model.spec.frames(sound.seconds if seconds is None else seconds)
            features = _features(model, sound, frames)
        except AudioError as error:
            skipped.append(f"{path}: {error.why or error.what}")
            continue
        name = audio.readable_stem(Path(key).stem)
        inputs[key] = ConditionInput(name, str(path), features, recording=path)
    if not inputs:
        raise UserError("no condition could be read", why="; ".join(skipped))
    return inputs, skipped


def recording_input(model: Model, path: Path, frames: int) -> ConditionInput:
    """The first `frames` latent frames of a recording as a condition. Raises AudioError."""
    features = _features(model, recording(path), frames)
    return ConditionInput(audio.readable_stem(path.stem), str(path), features, recording=path)


def _features(model: Model, sound: Sound, frames: int) -> dict[str, np.ndarray]:
    """Standardised features [K, T] of a recording, as `encode` makes them for training."""
    features = {}
    for kind in model.kinds.values():
        if isinstance(kind, FeatureKind):
            raw = kind.features(sound, frames, model.codec.frame_rate)
            if raw is not None:
                features[kind.name] = model.standardisers[kind.name](raw)
    return features
