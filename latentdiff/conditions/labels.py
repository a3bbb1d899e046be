"""Labels of the recordings, and their vocabulary."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from latentdiff.config import did_you_mean
from latentdiff.errors import UserError


def read_labels(path: Path) -> dict[str, str]:
    """Labels by key, from a CSV file with columns `key` and `label`; others are ignored.

    Raises UserError if the file cannot be read, lacks a column, or has two labels for a key.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the labels {path}", why=str(error)) from error
    if not rows or not {"key", "label"} <= rows[0].keys():
        raise UserError(
            f"{path} is not a file of labels",
            why="its first line must be `key,label`, with a line for each recording below",
        )
    labels: dict[str, str] = {}
    for row in rows:
        key, label = (row["key"] or "").strip(), (row["label"] or "").strip()
        if labels.setdefault(key, label) != label:
            raise UserError(
                f"{path} has two labels for {key}: '{labels[key]}' and '{label}'",
                do_this="remove one of the two lines.",
            )
    return {key: label for key, label in labels.items() if label}


def labels_for(keys: Iterable[str], labels: Mapping[str, str]) -> list[str]:
    """The label of each key; "song train.wav" and "song validation.wav" have that of "song.wav".

    Raises UserError that names some of the keys without a label.
    """
    wanted = list(keys)
    own_labels = [labels.get(key) or labels.get(recording_key(key)) for key in wanted]
    missing = [key for key, label in zip(wanted, own_labels, strict=True) if label is None]
    if missing:
        some = "".join(f"\n    {key}" for key in missing[:5])
        raise UserError(
            f"{len(missing)} of {len(wanted)} recordings have no label",
            why=f"the file of condition.labels does not contain{some}",
            do_this="add a line `key,label` for each, with the key as in the manifest of the "
            "latents.",
        )
    return [label for label in own_labels if label is not None]


def recording_key(key: str) -> str:
    """The key before `encode` split the recording: "song train.wav" => "song.wav"."""
    return _PART.sub(r"\1", key)


_PART = re.compile(r" (?:train|validation)(\.[^./]*)$")
"""The suffix that `encode` appends to the name of a recording that it splits in two."""


def label_names(labels: Iterable[str | None]) -> list[str]:
    """The sorted vocabulary of a data set; the network is given a label's index in it.

    Raises UserError if files have no label, or if there is only one label.
    """
    seen = list(labels)
    names = sorted({label for label in seen if label is not None})
    missing = sum(label is None for label in seen)
    if missing or len(names) < 2:
        one = f"all files have the label '{names[0]}'" if names else "no file has a label"
        raise UserError(
            "the model cannot be conditioned on labels",
            why=f"{missing} of {len(seen)} files have no label" if missing else one,
            do_this="sort the audio into a folder for each kind, list the kinds in a file "
            "(condition.labels), or set condition.kinds=none.",
        )
    return names


def label_index(name: str, names: list[str]) -> int:
    """Index of a label in the vocabulary. Raises UserError for a label that is not in it."""
    if name not in names:
        raise UserError(
            f"the model has no label '{name}'{did_you_mean(name, names)}",
            do_this=f"choose one of: {', '.join(names)}.",
        )
    return names.index(name)
