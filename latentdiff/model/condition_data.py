"""The kinds of conditions that a model follows, fitted to what a store of latents holds of them.

Shapes: C latent channels, K condition features, k numbers that describe a file, T latent frames.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentdiff import config, runs
from latentdiff.conditions.align import align
from latentdiff.conditions.kind import (
    CategoryKind,
    ConditionKind,
    FeatureKind,
    LatentKind,
    SpectralKind,
    condition_kind,
    feature_kinds,
)
from latentdiff.conditions.labels import label_names, labels_for, read_labels
from latentdiff.conditions.references import References
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.errors import UserError
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.project import Project
from latentdiff.runs import Input

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedConditions:
    """The conditions of a model that is to be trained on a store."""

    settings: ConditionConfig
    """With the kinds that the model follows; never `auto`."""
    standardisers: Mapping[str, Standardiser]
    """Kind -> standardiser of its features [K, T]."""
    references: References
    labels: list[str]
    """The label vocabulary; empty without labels."""


@dataclass(frozen=True)
class MissingFeatures:
    """What a finished store lacks."""

    kinds: Mapping[str, FeatureKind]
    """By name."""
    inputs: Mapping[str, Input]
    """What their features are made from, for `run.json`."""


def fit_conditions(
    store: LatentStore,
    settings: ConditionConfig,
    frame_rate: float,
    final: Callable[[Entry], np.ndarray],
) -> FittedConditions:
    """The conditions for the training files of a store, with their labels; see `labelled`.

    `frame_rate`: latent frames per second. `final`: a file's final latents [C, T]. Raises UserError
    where the store lacks what a kind needs.
    """
    settings = _available(store, settings)
    train, labels = store.of("train"), list[str]()
    standardisers: dict[str, Standardiser] = {}
    described: dict[str, list[np.ndarray | None]] = {}
    for name in settings.chosen:
        kind = condition_kind(name, settings)
        if isinstance(kind, FeatureKind):
            _check_settings(store, kind)
            features = [stored_features(store, entry, kind, frame_rate) for entry in train]
            known = [each for each in features if each is not None]
            if not known:
                raise _no_features(store, name, f"no training file has any {name}")
            standardisers[name] = Standardiser.fit(known, kind.least_std)
            described[name] = [None if x is None else kind.describe(x) for x in features]
        elif isinstance(kind, LatentKind):
            standardisers[name], rows = kind.fit((final(entry) for entry in train), frame_rate)
            described[name] = list(rows)
        elif isinstance(kind, CategoryKind):
            labels = label_names(entry.label for entry in store.entries)
            described[name] = [_index(labels, entry) for entry in train]
    references = References.of([entry.key for entry in train], described)
    return FittedConditions(settings, standardisers, references, labels)


def stored_features(
    store: LatentStore, entry: Entry, kind: FeatureKind, frame_rate: float
) -> np.ndarray | None:
    """Raw condition features [K, T] of a file; None where the recording has none of the kind.

    `frame_rate`: latent frames per second. Raises UserError where they were not stored, or do not
    fit the latents.
    """
    features = store.features(entry, kind.name)
    if features is None and not (kind.optional and _recorded(store, kind.name)):
        raise _no_features(store, kind.name, f"{entry.key} has none")
    if features is None or not store.plain:
        return features
    assert isinstance(kind, SpectralKind)  # a plain folder has no features but mel
    path = store.root / entry.feature_files()[kind.name]
    return align(features, kind, entry.frames, frame_rate, str(path))


def stored_kinds(condition: ConditionConfig) -> dict[str, FeatureKind]:
    """Feature kinds by name: `mel`, to follow any recording, and those in the run's config."""
    return feature_kinds(dict.fromkeys(["mel", *condition.chosen]), condition)


def feature_inputs(project: Project) -> dict[str, Input]:
    """What features are made from, for `run.json`: the settings of each kind, and known beats."""
    inputs = {}
    if (beats := project.data.beats) is not None:
        inputs["data.beats"] = Input(beats, runs.sha256_file(Path(beats)))
    for name, kind in stored_kinds(project.condition).items():
        settings = json.dumps(kind.identity(), sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()
        inputs[f"condition.{name}"] = Input(settings, digest)
    return inputs


def missing_features(directory: Path, project: Project) -> MissingFeatures | None:
    """The condition kinds that the store lacks; None if there are none, or it is not finished."""
    before = runs.read_run(directory, "encode")
    if before is None or not before.is_done:
        return None
    kinds = {
        name: kind
        for name, kind in stored_kinds(project.condition).items()
        if f"condition.{name}" not in before.inputs
    }
    sources = {f"condition.{name}" for name in kinds}
    if "beat" in kinds and "data.beats" not in before.inputs:
        sources.add("data.beats")
    inputs = {role: x for role, x in feature_inputs(project).items() if role in sources}
    return MissingFeatures(kinds, inputs) if kinds else None


def labelled(store: LatentStore, condition: ConditionConfig) -> LatentStore:
    """The store with the labels of the file that `condition` names; unchanged without one."""
    if condition.labels is None:
        return store
    names = labels_for((entry.key for entry in store.entries), read_labels(Path(condition.labels)))
    entries = [replace(entry, label=name) for entry, name in zip(store.entries, names, strict=True)]
    return replace(store, entries=entries)


def without_unknown_labels(store: LatentStore, labels: list[str]) -> LatentStore:
    """The store without files of labels that the model was not trained on; logs them.

    Raises UserError where none is left.
    """
    if not labels:
        return store
    known = [entry for entry in store.entries if entry.label in labels]
    unknown = sorted({entry.label or "none" for entry in store.entries} - set(labels))
    if not known:
        raise UserError(
            f"no file in {store.root} has a label that the model knows",
            why=f"it knows {', '.join(labels)}; the files have {', '.join(unknown)}",
            do_this="name the latents that it was trained on with --latents.",
        )
    if unknown:
        log.warning(
            "%d files are left out: the model never saw their labels (%s)",
            len(store.entries) - len(known),
            ", ".join(unknown),
        )
    return replace(store, entries=known)


def _available(store: LatentStore, settings: ConditionConfig) -> ConditionConfig:
    """The settings with kinds in place of `auto`: those that the store has what is needed for."""
    if not settings.automatic:
        return settings
    kinds = []
    for name in settings.chosen:
        kind = condition_kind(name, settings)
        if reason := _missing(store, kind):
            log.warning("trained without the condition %s: %s", name, reason)
        else:
            kinds.append(name)
    return settings.following(kinds)


def _missing(store: LatentStore, kind: ConditionKind) -> str | None:
    """Why training cannot follow this kind; None: it can."""
    if not isinstance(kind, FeatureKind):
        return None
    if not _recorded(store, kind.name):
        return f"{store.root} has no such features; `latentdiff encode` adds them"
    if all(store.features(entry, kind.name) is None for entry in store.of("train")):
        return f"no training file has a {kind.name} that could be found"
    return None


def _recorded(store: LatentStore, name: str) -> bool:
    """Whether `encode` looked for features of this kind."""
    info = runs.read_run(store.root)
    return info is not None and f"condition.{name}" in info.inputs


def _check_settings(store: LatentStore, kind: FeatureKind) -> None:
    """The features of the store must be those that `sample` will compute."""
    key, wanted = f"condition.{kind.name}", kind.identity()
    info = runs.read_run(store.root)
    recorded = info.inputs.get(key) if info else None
    made_with = None if recorded is None else json.loads(recorded.path)
    changed = config.differences(made_with or {}, wanted, f"{key}.")
    if made_with is not None and changed:
        raise UserError(
            f"the {kind.name} features in {store.root} were made with other settings:\n    "
            + "\n    ".join(changed),
            why="samples would follow other features than the model was trained on",
            do_this="drop those settings, or encode again.",
        )


def _index(labels: list[str], entry: Entry) -> np.ndarray | None:
    """The index of a file's label, [1]."""
    return None if entry.label is None else np.array([labels.index(entry.label)], np.float32)


def _no_features(store: LatentStore, name: str, why: str) -> UserError:
    if store.plain:
        return UserError(
            f"the model cannot follow the {name} of the files in {store.root}",
            why=f"{why}; of latents from another program, only mel spectrograms are read",
            do_this="put NAME.spec.npy beside each NAME.npy and set condition.kinds=mel, or train "
            "with condition.kinds=none.",
        )
    return UserError(
        f"the model cannot follow the {name} of the recordings in {store.root}",
        why=f"{why}; features are stored when the latents are encoded",
        do_this=f"add them with `latentdiff encode` and condition.kinds={name}, or train with "
        "condition.kinds=none.",
    )
