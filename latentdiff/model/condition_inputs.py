"""What samples follow: files whose spectrogram is taken, labels, or both.

Shapes: K condition features, T latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentdiff import audio
from latentdiff.audio import AudioError
from latentdiff.conditions.labels import label_index
from latentdiff.conditions.mel import mel_of_blocks
from latentdiff.conditions.resample import resample_time
from latentdiff.errors import UserError
from latentdiff.model.model import Model


@dataclass(frozen=True)
class ConditionInput:
    """What samples follow."""

    name: str
    """Part of the file name."""
    source: str | None = None
    """File or label, as it was given; None = nothing, the model runs free."""
    frames: int = 0
    """Length of the features; 0 where there are none."""
    features: np.ndarray | None = None
    """[K, T], standardised."""
    label: int | None = None


def condition_inputs(
    model: Model, given: list[Path] | tuple[Path, ...], seconds: float | None
) -> tuple[list[ConditionInput], list[str]]:
    """What to follow, and "path: reason" for what of it could not be read.

    `given`: audio files or folders for a model of mel spectrograms, names for one of labels; for
    one of both some of either, and each file is followed in each label. A file is followed for
    `seconds` or, None, to its end. Raises UserError where the model cannot do that.
    """
    kind = model.condition.kind
    if not given:
        if kind != "none" and model.condition.dropout == 0:
            raise UserError(
                f"this model needs a condition ({kind})",
                why="it was trained with condition.dropout=0 and cannot run free",
                do_this=_choices(model),
            )
        return [ConditionInput("free")], []
    if kind == "none":
        raise UserError(
            "this model follows no condition",
            why="it was trained with condition.kind=none",
            do_this="leave --condition out, or train one with condition.kind=mel.",
        )
    if kind == "label":
        return [_label_input(model, str(path)) for path in given], []
    if kind == "mel":
        return _mel_inputs(model, given, seconds)
    return _combined_inputs(model, given, seconds)


def _choices(model: Model) -> str:
    song = "--condition song.wav" if model.condition.follows_mel else ""
    one_of = f"--condition with one of: {', '.join(model.labels)}"
    label = one_of if model.condition.follows_label else ""
    return " and ".join(part for part in (song, label) if part)


def _label_input(model: Model, name: str) -> ConditionInput:
    return ConditionInput(_slug(name), name, label=label_index(name, model.labels))


def _combined_inputs(
    model: Model, given: list[Path] | tuple[Path, ...], seconds: float | None
) -> tuple[list[ConditionInput], list[str]]:
    """Each file in each label. What names no file must be a label."""
    named = [path for path in given if str(path) in model.labels or not Path(path).exists()]
    labels = [_label_input(model, str(path)) for path in named]
    files = [path for path in given if path not in named]
    if not labels or not files:
        missing = "label" if files else "recording"
        raise UserError(
            f"this model follows a recording and a label together, and no {missing} was given",
            do_this=_choices(model) + ".",
        )
    mels, losses = _mel_inputs(model, files, seconds)
    guides = [
        replace(mel, name=f"{mel.name}-{label.name}", label=label.label)
        for mel in mels
        for label in labels
    ]
    return guides, losses


def _slug(text: str) -> str:
    return audio.file_stem(text).rsplit("-", 1)[0]


def _mel_inputs(
    model: Model, given: list[Path] | tuple[Path, ...], seconds: float | None
) -> tuple[list[ConditionInput], list[str]]:
    found = audio.find(given)
    losses = [f"{path}: {reason}" for path, reason in found.skipped]
    names = [_slug(key) for key, _ in found.files]
    guides = []
    for (key, path), name in zip(found.files, names, strict=True):
        # Files of one name in two folders: told apart by the hash of their keys.
        unique = name if names.count(name) == 1 else audio.file_stem(key)
        try:
            features = _features(model, path, seconds)
        except AudioError as error:
            losses.append(f"{path}: {error.why or error.what}")
            continue
        guides.append(ConditionInput(unique, str(path), features.shape[1], features))
    if not guides:
        raise UserError("no condition could be read", why="; ".join(losses))
    return guides, losses


def _features(model: Model, path: Path, seconds: float | None) -> np.ndarray:
    """Standardised features [K, T] of a file, as `encode` makes them for training."""
    assert model.standardiser is not None
    settings = model.condition.mel
    mel = mel_of_blocks(audio.blocks(path, settings.sample_rate, 1), settings)
    ratio = model.seconds(1) * settings.sample_rate / settings.hop
    # Mel frame M - 1 is centred on the last sample but less than a hop.
    length = (
        (mel.shape[1] - 1) * settings.hop / settings.sample_rate if seconds is None else seconds
    )
    return model.standardiser(resample_time(mel, model.frames(length), ratio))
