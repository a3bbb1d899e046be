"""Labels: which file has which, and the vocabulary they form."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from latentdiff.config import did_you_mean
from latentdiff.errors import UserError


def read_labels(path: Path) -> dict[str, str]:
    """Labels by key, from a CSV file with columns `key` and `label`; other columns are left out.

    Raises UserError where the file cannot be read, lacks a column, or names a key twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the labels {path}", why=str(error)) from error
    if not rows or not {"key", "label"} <= rows[0].keys():
        raise UserError(
            f"the labels {path} cannot be understood",
            why="there must be a first line `key,label` and one line a recording",
        )
    labels: dict[str, str] = {}
    for row in rows:
        key, label = (row["key"] or "").strip(), (row["label"] or "").strip()
        if labels.setdefault(key, label) != label:
            raise UserError(f"the labels {path} give {key} both '{labels[key]}' and '{label}'")
    return {key: label for key, label in labels.items() if label}


def labels_for(keys: Iterable[str], labels: Mapping[str, str]) -> list[str]:
    """The label of each key, "song train.wav" and "song validation.wav" being parts of "song.wav".

    Raises UserError naming some of the keys that have none.
    """
    wanted = list(keys)
    found = [labels.get(key) or labels.get(_PART.sub(r"\1", key)) for key in wanted]
    missing = [key for key, label in zip(wanted, found, strict=True) if label is None]
    if missing:
        some = "".join(f"\n    {key}" for key in missing[:5])
        raise UserError(
            f"{len(missing)} of {len(wanted)} recordings have no label",
            why=f"the file of condition.labels does not name{some}",
            do_this="give each a line `key,label`, with the key as it stands in the manifest of "
            "the latents.",
        )
    return [label for label in found if label is not None]


_PART = re.compile(r" (?:train|validation)(\.[^./]*)$")
"""What `encode` adds to the name of a recording whose end is held out."""


def label_names(labels: Iterable[str | None]) -> list[str]:
    """The sorted vocabulary of a data set; a label's index in it is what the network is given.

    Raises UserError where files have no label, or where there is but one to choose from.
    """
    seen = list(labels)
    names = sorted({label for label in seen if label is not None})
    missing = sum(label is None for label in seen)
    if missing or len(names) < 2:
        one = f"all files have the label '{names[0]}'" if names else "no file has a label"
        raise UserError(
            "the files cannot be told apart by label",
            why=f"{missing} of {len(seen)} files have no label" if missing else one,
            do_this="sort the audio into one folder a kind, name the kinds in a file "
            "(condition.labels), or set condition.kind=none.",
        )
    return names


def label_index(name: str, names: list[str]) -> int:
    """Index of a label in the vocabulary. Raises UserError for a label the model never saw."""
    if name not in names:
        raise UserError(
            f"the model knows no label '{name}'{did_you_mean(name, names)}",
            do_this=f"choose one of: {', '.join(names)}.",
        )
    return names.index(name)
