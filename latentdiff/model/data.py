"""What a diffusion model is trained and measured on: a store's latents with their conditions.

Shapes: B clips, C latent channels of the network, D latent dimensions of the codec, K condition
features, T latent frames.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.conditions.kind import FeatureKind, LatentKind
from latentdiff.conditions.label import Label
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.errors import UserError
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import CodecFacts, Entry, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.condition_data import fit_conditions, labelled, stored_features
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.spec import ModelSpec
from latentdiff.training.data import Derive, FeatureMap, Recording, Windows, require_finite
from latentdiff.training.settings import TrainingConfig

log = logging.getLogger(__name__)

VARIANCE_WINDOWS = 1024
"""Windows that the variance of transformed latents is measured on."""
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
    store = labelled(store, project.condition)
    codec, codec_path = store.codec, ""
    if codec is None:
        codec = _assumed_codec(store, project)
    elif (info := runs.read_run(store.root)) is not None:
        codec_path = str(info.input_path("codec") or "")
    recipe = project.recipe
    statistics = recipe.statistics(store)
    whitening = Whitening.from_statistics(statistics, project.latents.keep, project.latents.scaling)

    def final(entry: Entry) -> np.ndarray:
        raw = np.array(recipe.latents(store, entry), dtype=np.float32)
        latents = whitening.whiten(torch.from_numpy(raw))
        require_finite(latents, "latents", entry.key)
        return latents.numpy()

    fitted = fit_conditions(store, project.condition, codec.frame_rate, final)
    project = project.model_copy(update={"condition": fitted.settings})
    spec = ModelSpec.of(project, codec, codec_path, fitted.labels)
    model = Model.create(
        spec, whitening, fitted.standardisers, fitted.references, seed=project.seed
    )
    if recipe.transform_windows is not None:
        # The network sees transformed windows, so it is their variance that it must know.
        variance = _variance(model, store, project.training)
        whitening = Whitening(whitening.mean, whitening.directions, whitening.scale, variance)
        model = Model.create(
            spec, whitening, fitted.standardisers, fitted.references, seed=project.seed
        )
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
    recipe = model.spec.recipe
    entries = store.of(split)
    if not entries:
        return None
    sources = recipe.condition_sources(entries)
    return Windows(
        [_recording(model, store, *pair) for pair in zip(entries, sources, strict=True)],
        model.spec.window,
        whiten=model.whiten,
        features={
            name: FeatureMap(len(standardiser.mean), _on_tensors(standardiser))
            for name, standardiser in model.standardisers.items()
            if isinstance(model.kinds[name], FeatureKind)
        },
        derive={
            name: _derive(model, kind)
            for name, kind in model.kinds.items()
            if isinstance(kind, LatentKind)
        },
        transform_windows=recipe.transform_windows,
        memory_gb=memory_gb,
        scratch=scratch,
    )


def features_of(model: Model, store: LatentStore, entry: Entry) -> dict[str, np.ndarray | None]:
    """Kind -> raw features [K, T] of a file; None where the recording has none of the kind.

    Raises UserError where they were not stored.
    """
    return {
        name: stored_features(store, entry, kind, model.codec.frame_rate)
        for name, kind in model.kinds.items()
        if isinstance(kind, FeatureKind)
    }


def final_latents(model: Model, store: LatentStore, entry: Entry) -> np.ndarray:
    """Final latents [C, T] of a file, as the model is trained on them."""
    raw = np.array(model.spec.recipe.latents(store, entry), dtype=np.float32)
    return model.whiten(torch.from_numpy(raw)).numpy()


def label_of(model: Model, entry: Entry) -> int | None:
    """Index of a file's label; None where the model follows none."""
    return model.labels.index(entry.label) if model.labels and entry.label else None


def _recording(model: Model, store: LatentStore, entry: Entry, source: Entry) -> Recording:
    """A file's latents with the conditions of `source`."""
    recipe, label = model.spec.recipe, label_of(model, source)
    features = {
        name: None if x is None else recipe.fit_features(x, entry.frames)
        for name, x in features_of(model, store, source).items()
    }
    categories = {} if label is None else {Label.name: label}
    return Recording(entry.key, recipe.latents(store, entry), features, categories)


def _derive(model: Model, kind: LatentKind) -> Derive:
    """The features of a kind for windows of the model's latents."""
    standardiser, rate = model.standardisers[kind.name], model.codec.frame_rate
    return lambda rows, lengths, allocate: kind.windows(rows, lengths, rate, standardiser, allocate)


def _variance(model: Model, store: LatentStore, settings: TrainingConfig) -> Tensor:
    """[C] mean square of the whitened training windows."""
    windows = windows_of(model, store, "train", memory_gb=settings.memory_gb)
    assert windows is not None  # `fit_window` saw the files
    return windows.spread(VARIANCE_WINDOWS).latents.square().mean(dim=(0, 2))


def _assumed_codec(store: LatentStore, project: Project) -> CodecFacts:
    rate, hop = project.data.sample_rate, project.latents.hop
    log.warning(
        "%s does not name the codec of its latents; assuming %d Hz (data.sample_rate) and %d "
        "samples per frame (latents.hop)",
        *(store.root, rate, hop),
    )
    return CodecFacts("", rate, hop, store.latent_dim, 1)


def _on_tensors(standardiser: Standardiser) -> Callable[[Tensor], Tensor]:
    return lambda features: torch.from_numpy(standardiser(features.numpy()))
