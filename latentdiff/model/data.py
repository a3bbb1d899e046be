"""What a diffusion model is trained and measured on: a store's latents with their conditions.

Shapes: B clips, C latent channels of the network, D latent dimensions of the codec, K condition
features, T latent frames.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentdiff import config, runs
from latentdiff.conditions.features import feature_kind
from latentdiff.conditions.labels import label_names, labels_for, read_labels
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.errors import UserError
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import CodecFacts, Entry, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.spec import ModelSpec
from latentdiff.training.data import Recording, Windows
from latentdiff.training.settings import TrainingConfig

log = logging.getLogger(__name__)

VARIANCE_WINDOWS = 1024
"""Windows that the variance of transformed latents is measured on."""
PLAIN_HOP = 2048
"""Audio samples per frame that a plain folder of latents is assumed to have: RAVE v2's."""
SHORTEST_WINDOW = 16
"""Frames below which a training window is not shortened to fit the recordings."""


@dataclass(frozen=True)
class TrainingData:
    """Everything that training a diffusion model needs."""

    store: LatentStore
    """The store, with the labels that training uses."""
    statistics: LatentStatistics
    """Statistics of the training files' raw latents."""
    model: Model
    """Untrained."""


def prepare(store: LatentStore, project: Project) -> TrainingData:
    """The data of a project and the untrained model for it.

    Raises UserError where the store lacks what the condition needs, or settings contradict it.
    """
    condition = project.condition
    standardiser, labels = None, []
    if (name := condition.features) is not None:
        _check_features(store, condition, name)
        train = store.of("train")
        standardiser = Standardiser.fit(_features(store, entry, name) for entry in train)
    if condition.follows_label:
        store = labelled(store, condition)
        labels = label_names(entry.label for entry in store.entries)
    codec, codec_path = store.codec, ""
    if codec is None:
        codec = _assumed_codec(store, project)
    elif (info := runs.read_run(store.root)) is not None:
        codec_path = str(info.input_path("codec") or "")
    spec = ModelSpec.of(project, codec, codec_path, labels)
    statistics = spec.recipe.statistics(store)
    whitening = Whitening.from_statistics(statistics, project.latents.keep, project.latents.scaling)
    model = Model.create(spec, whitening, standardiser, project.seed)
    if spec.recipe.transform_windows is not None:
        # The network sees transformed windows, so it is their variance that it must know.
        variance = _variance(model, store, project.training)
        whitening = Whitening(whitening.mean, whitening.directions, whitening.scale, variance)
        model = Model.create(spec, whitening, standardiser, project.seed)
    model.resolve(project.sampling)  # what cannot be sampled later is refused now
    return TrainingData(store, statistics, model)


def fit_window(store: LatentStore, project: Project) -> Project:
    """The project with a training window that the recordings are long enough for.

    Where every training file is shorter than `training.window`, the longest window that still
    gives a batch of different ones. Raises UserError where there is nothing to train on.
    """
    train, settings = store.of("train"), project.training
    if not train:
        raise UserError(
            f"there are no training files in {store.root}",
            why=f"all {len(store.entries)} files are held out for validation",
            do_this="add recordings, then preprocess and encode again.",
        )
    lengths = [entry.frames for entry in train]
    window, longest = settings.window, max(lengths)
    if longest < window:
        window = longest
        while _windows_in(lengths, window) < settings.batch and window > SHORTEST_WINDOW:
            window -= 1
        log.warning(
            "training.window: %d frames instead of %d, as the longest training file has %d",
            window,
            settings.window,
            longest,
        )
    count = _windows_in(lengths, window)
    if count < settings.batch:
        raise UserError(
            f"training.batch ({settings.batch}) exceeds the number of different windows",
            why=f"the training files hold {count} windows of {window} frames",
            do_this=f"set training.batch={count} or less, or a shorter training.window, "
            "or add recordings.",
        )
    return project.model_copy(update={"training": settings.model_copy(update={"window": window})})


def _windows_in(lengths: list[int], window: int) -> int:
    """Different windows in files of these lengths; a shorter file holds one, padded."""
    return sum(max(1, length - window + 1) for length in lengths)


def windows_of(
    model: Model,
    store: LatentStore,
    split: str,
    *,
    memory_gb: float = TrainingConfig().memory_gb,
    scratch: Path | None = None,
) -> Windows | None:
    """The windows of a split as the model is trained on them; None where it has no files.

    Raises UserError where the store lacks the features that the model follows.
    """
    recipe, standardiser = model.spec.recipe, model.standardiser
    entries = store.of(split)
    if not entries:
        return None
    sources = recipe.condition_sources(entries)
    return Windows(
        [_recording(model, store, *pair) for pair in zip(entries, sources, strict=True)],
        model.spec.window,
        whiten=model.whiten,
        standardise=None if standardiser is None else _on_tensors(standardiser),
        transform_windows=recipe.transform_windows,
        memory_gb=memory_gb,
        scratch=scratch,
    )


def features_of(model: Model, store: LatentStore, entry: Entry) -> np.ndarray | None:
    """Raw condition features [K, T] of a file; None where the model follows none.

    Raises UserError where they were not stored.
    """
    name = model.condition.features
    return None if name is None else _features(store, entry, name)


def label_of(model: Model, entry: Entry) -> int | None:
    """Index of a file's label; None where the model follows none."""
    return model.labels.index(entry.label) if model.labels and entry.label else None


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


def _recording(model: Model, store: LatentStore, entry: Entry, source: Entry) -> Recording:
    """A file's latents with the condition of `source`."""
    recipe, features = model.spec.recipe, features_of(model, store, source)
    if features is not None:
        features = recipe.fit_features(features, entry.frames)
    return Recording(entry.key, recipe.latents(store, entry), features, label_of(model, source))


def _variance(model: Model, store: LatentStore, settings: TrainingConfig) -> Tensor:
    """[C] mean square of the whitened training windows."""
    windows = windows_of(model, store, "train", memory_gb=settings.memory_gb)
    assert windows is not None  # `fit_window` saw the files
    return windows.spread(VARIANCE_WINDOWS).latents.square().mean(dim=(0, 2))


def _assumed_codec(store: LatentStore, project: Project) -> CodecFacts:
    rate = project.data.sample_rate
    log.warning(
        "%s does not name the codec of its latents; assuming %d Hz and %d samples per frame",
        store.root,
        rate,
        PLAIN_HOP,
    )
    return CodecFacts("", rate, PLAIN_HOP, store.latent_dim, 1)


def _check_features(store: LatentStore, condition: ConditionConfig, name: str) -> None:
    """The features of the store must be those that `sample` will compute."""
    key, wanted = f"condition.{name}", feature_kind(name, condition).identity()
    info = runs.read_run(store.root)
    recorded = info.inputs.get(key) if info else None
    made_with = None if recorded is None else json.loads(recorded.path)
    changed = config.differences(made_with or {}, wanted, f"{key}.")
    if made_with is not None and changed:
        raise UserError(
            f"the {name} features in {store.root} were made with other settings:\n    "
            + "\n    ".join(changed),
            why="samples would follow other features than the model was trained on",
            do_this="drop those settings, or encode again.",
        )


def _features(store: LatentStore, entry: Entry, name: str) -> np.ndarray:
    features = store.features(entry, name)
    if features is None:
        raise UserError(
            f"there are no {name} features of {entry.key} in {store.root}",
            why="the model follows them, and the latents were encoded without",
            do_this=f"run `latentdiff encode` with condition.kind={name}, or train with "
            "condition.kind=none.",
        )
    return features


def _on_tensors(standardiser: Standardiser) -> Callable[[Tensor], Tensor]:
    return lambda features: torch.from_numpy(standardiser(features.numpy()))
