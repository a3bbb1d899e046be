"""What samples follow: features of recordings, labels, or both.

Shapes: B samples, K condition features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from latentdiff import audio
from latentdiff.audio import AudioError
from latentdiff.conditions.features import feature_kind
from latentdiff.conditions.labels import label_index
from latentdiff.conditions.resample import resample_time
from latentdiff.errors import UserError
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.data import features_of, label_of
from latentdiff.model.model import Model
from latentdiff.specs import Condition


@dataclass(frozen=True)
class ConditionInput:
    """The condition of one sample."""

    name: str
    """Part of the sample's file name."""
    source: str | None = None
    """File or label, as it was given; None: nothing, the sample is unconditional."""
    features: np.ndarray | None = None
    """[K, T], standardised; None where only a label is followed."""
    label: int | None = None
    """Index of the label; None without one."""

    @property
    def frames(self) -> int:
        """T; 0 without features."""
        return 0 if self.features is None else self.features.shape[-1]


def as_condition(inputs: Sequence[ConditionInput]) -> Condition:
    """Inputs of one kind and length as a batch: features [B, K, T], labels [B]."""
    features = [each.features for each in inputs if each.features is not None]
    labels = [each.label for each in inputs if each.label is not None]
    return Condition(
        torch.from_numpy(np.stack(features)) if features else None,
        torch.tensor(labels) if labels else None,
    )


def stored_input(
    model: Model, store: LatentStore, entry: Entry, start: int, frames: int
) -> ConditionInput:
    """The condition at `frames` latent frames of a stored file, from `start` on."""
    features = features_of(model, store, entry)
    if features is not None:
        assert model.standardiser is not None  # it has features
        cut = np.array(features[:, start : start + frames], dtype=np.float32)
        features = model.standardiser(cut)
    return ConditionInput(entry.key, entry.source, features, label_of(model, entry))


def condition_inputs(
    model: Model, given: Sequence[Path], seconds: float | None
) -> tuple[list[ConditionInput], list[str]]:
    """The conditions to sample with, and "path: reason" for files that could not be read.

    `given`: audio files or folders for a model that follows their features, names for one that
    follows labels; for one that follows both some of either, and each file is followed with each
    label. A file is followed for `seconds` or, None, to its end. Raises UserError where the model
    cannot follow what was given.
    """
    kind = model.condition.kind
    if not given:
        if kind != "none" and model.condition.dropout == 0:
            raise UserError(
                f"this model needs a condition ({kind})",
                why="it was trained with condition.dropout=0, so it never ran without one",
                do_this=_choices(model),
            )
        return [ConditionInput("free")], []
    if kind == "none":
        raise UserError(
            "this model follows no condition",
            why="it was trained with condition.kind=none",
            do_this="leave --condition out, or train one with condition.kind=mel.",
        )
    skipped: list[str] = []
    if model.condition.features is None:
        keyed = _label_inputs(model, given)
    elif model.condition.follows_label:
        keyed, skipped = _combined_inputs(model, given, seconds)
    else:
        keyed, skipped = _recording_inputs(model, given, seconds)
    return _distinctly_named(keyed), skipped


def _choices(model: Model) -> str:
    song = "--condition song.wav" if model.condition.features else ""
    one_of = f"--condition with one of: {', '.join(model.labels)}"
    label = one_of if model.condition.follows_label else ""
    return " and ".join(part for part in (song, label) if part)


def _label_inputs(model: Model, names: Sequence[Path]) -> dict[str, ConditionInput]:
    """Inputs by label."""
    labels = [str(name) for name in names]
    return {
        label: ConditionInput(
            audio.readable_stem(label), label, label=label_index(label, model.labels)
        )
        for label in labels
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
        f"{key}/{name}": replace(each, name=f"{each.name}-{label.name}", label=label.label)
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
            features = _features(model, path, seconds)
        except AudioError as error:
            skipped.append(f"{path}: {error.why or error.what}")
            continue
        inputs[key] = ConditionInput(audio.readable_stem(Path(key).stem), str(path), features)
    if not inputs:
        raise UserError("no condition could be read", why="; ".join(skipped))
    return inputs, skipped


def _features(model: Model, path: Path, seconds: float | None) -> np.ndarray:
    """Standardised features [K, T] of a file, as `encode` makes them for training."""
    name = model.condition.features
    assert name is not None and model.standardiser is not None
    kind = feature_kind(name, model.condition)
    raw = np.concatenate(list(kind.blocks(audio.blocks(path, kind.sample_rate, 1))), axis=1)
    # Feature frame M - 1 is centred on the last sample but less than a hop.
    length = (raw.shape[1] - 1) * kind.hop / kind.sample_rate if seconds is None else seconds
    ratio = kind.frames(model.spec.seconds(1))
    return model.standardiser(resample_time(raw, model.spec.frames(length), ratio))
