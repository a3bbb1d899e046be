"""What a diffusion model is trained on: a store's latents, their whitening, their conditions."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import config, runs
from latentdiff.conditions.labels import label_names, labels_for, read_labels
from latentdiff.conditions.settings import ConditionConfig, MelConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.errors import UserError
from latentdiff.latents import statistics
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import CodecFacts, Entry, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.project import Project
from latentdiff.notebook.experiments import data as experiments
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig
from latentdiff.training.data import Recording, Windows
from latentdiff.training.settings import TrainingConfig

log = logging.getLogger(__name__)

SPREAD = 1024
"""Windows that a variance is measured on."""
PLAIN_HOP = 2048
"""Audio samples per frame that a plain folder of latents is taken to have: RAVE v2's."""


@dataclass(frozen=True)
class Data:
    """What the model is trained on."""

    store: LatentStore
    statistics: LatentStatistics
    whitening: Whitening
    condition: ConditionConfig
    standardiser: Standardiser | None
    labels: list[str]
    codec: CodecFacts
    codec_path: str
    """Where its weights lay when the latents were made; empty where that is not known."""
    experiment: ExperimentConfig = NO_EXPERIMENT

    def windows(
        self, split: str, settings: TrainingConfig, scratch: Path | None = None
    ) -> Windows | None:
        """The windows of a split; None where it has no files."""
        entries = self.store.of(split)
        if not entries:
            return None
        return Windows(
            [
                self._recording(entry, partner)
                for entry, partner in zip(
                    entries, experiments.partners(self.experiment, entries), strict=True
                )
            ],
            settings.window,
            whiten=self.whitening.whiten,
            standardise=None if self.standardiser is None else _on_tensors(self.standardiser),
            of_window=experiments.of_window(self.experiment),
            memory_gb=settings.memory_gb,
            scratch=scratch,
        )

    def constants(self) -> dict[str, Any]:
        """Groups of tensors that sampling needs beside the network."""
        groups: dict[str, Any] = {"whitening": self.whitening.state_dict()}
        if self.standardiser is not None:
            arrays = self.standardiser.arrays()
            groups["features"] = {key: torch.from_numpy(value) for key, value in arrays.items()}
        return groups

    def _recording(self, entry: Entry, partner: Entry) -> Recording:
        """A file with the condition of its `partner`, which but in an experiment is itself."""
        label = self.labels.index(partner.label) if self.labels and partner.label else None
        features = None if self.standardiser is None else self.store.mel(partner)
        if features is not None and self.experiment.data.pairing == "shuffled":
            features = experiments.borrowed(features, entry.frames)
        latents = latents_of(self.store, entry, self.experiment)
        return Recording(entry.key, latents, features, label)


def check(store: LatentStore, settings: TrainingConfig) -> None:
    """Refuse what cannot be trained on, before anything is written."""
    train = store.of("train")
    if not train:
        raise UserError(
            f"there are no training files in {store.root}",
            why=f"all {len(store.entries)} files are held out for validation",
            do_this="add recordings, then preprocess and encode again.",
        )
    longest = max(entry.frames for entry in train)
    if longest < settings.window:
        raise UserError(
            f"training.window ({settings.window} frames) is longer than every training file",
            why=f"the longest has {longest} frames",
            do_this=f"set training.window={longest} or less.",
        )
    count = sum(max(1, entry.frames - settings.window + 1) for entry in train)
    if count < settings.batch:
        raise UserError(
            f"training.batch ({settings.batch}) exceeds the number of different windows",
            why=f"the training files hold {count} windows of {settings.window} frames",
            do_this=f"set training.batch={count} or less, or a shorter training.window, "
            "or add recordings.",
        )


def prepare(store: LatentStore, project: Project) -> Data:
    """The data of a project. Raises UserError where the store lacks what its condition needs."""
    found = _statistics(store, project.experiment)
    condition = project.condition
    standardiser, labels = None, []
    if condition.follows_mel:
        _check_mel(store, condition.mel)
        standardiser = Standardiser.fit(_mel(store, entry) for entry in store.of("train"))
    if condition.follows_label:
        store = labelled(store, condition)
        labels = label_names(entry.label for entry in store.entries)
    codec = store.codec
    if codec is None:
        log.warning(
            "%s does not say whose latents they are: taken to be of a codec of %d Hz and %d "
            "samples a frame",
            store.root,
            project.data.sample_rate,
            PLAIN_HOP,
        )
        codec = CodecFacts("", project.data.sample_rate, PLAIN_HOP, store.latent_dim, 1)
    chosen = project.latents
    whitening = Whitening.from_statistics(found, chosen.keep, chosen.scaling)
    source = _inputs_of(store).get("codec")
    path = source.path if source else ""
    data = Data(
        store, found, whitening, condition, standardiser, labels, codec, path, project.experiment
    )
    return _with_their_variance(data, project.training)


def latents_of(store: LatentStore, entry: Entry, experiment: ExperimentConfig) -> np.ndarray:
    """Raw latents [D, T] to train on: posterior means, but in an experiment.

    Where no deviations were stored frame by frame, draws have that of each dimension's mean
    variance.
    """
    mean, std = store.mean(entry), store.std(entry)
    if experiment.data.posterior == "sampled" and std is None:
        variance = store.statistics().posterior_variance
        if variance is not None:
            std = np.broadcast_to(np.sqrt(variance).astype(np.float32)[:, None], mean.shape)
    return experiments.latents(experiment, entry.key, mean, std)


def _with_their_variance(data: Data, settings: TrainingConfig) -> Data:
    """The whitening knows the variance of what is done to windows after it."""
    windows = None if data.experiment.data.scaling == "none" else data.windows("train", settings)
    if windows is None:
        return data
    variance = windows.spread(SPREAD).latents.square().mean(dim=(0, 2))
    found = data.whitening
    whitening = Whitening(found.mean, found.directions, found.scale, variance)
    return replace(data, whitening=whitening)


def labelled(store: LatentStore, condition: ConditionConfig) -> LatentStore:
    """The store with the labels of the file that `condition` names; as it is where none is."""
    if condition.labels is None:
        return store
    names = labels_for((entry.key for entry in store.entries), read_labels(Path(condition.labels)))
    entries = [replace(entry, label=name) for entry, name in zip(store.entries, names, strict=True)]
    return replace(store, entries=entries)


def _statistics(store: LatentStore, experiment: ExperimentConfig) -> LatentStatistics:
    """Those of the store, or of draws from it."""
    if experiment.data.posterior == "mean":
        return store.statistics()
    train = store.of("train")
    return statistics.fit((latents_of(store, entry, experiment), None) for entry in train)


def _check_mel(store: LatentStore, wanted: MelConfig) -> None:
    """The spectrograms of the store must be of the kind that `sample` will compute."""
    recorded = _inputs_of(store).get("condition.mel")
    made_with = None if recorded is None else json.loads(recorded.path)
    changed = config.differences(made_with or {}, wanted.model_dump(mode="json"), "condition.mel.")
    if made_with is not None and changed:
        raise UserError(
            f"the mel spectrograms in {store.root} were made with other settings:\n    "
            + "\n    ".join(changed),
            why="samples would follow another kind of spectrogram than was trained on",
            do_this="drop those settings, or encode again.",
        )


def _inputs_of(store: LatentStore) -> dict[str, runs.Input]:
    info = runs.read_run(store.root)
    return info.inputs if info else {}


def _mel(store: LatentStore, entry: Entry) -> np.ndarray:
    mel = store.mel(entry)
    if mel is None:
        raise UserError(
            f"there is no mel spectrogram of {entry.key} in {store.root}",
            why="the latents were encoded without one",
            do_this="encode the recordings with `latentdiff encode`, or train with "
            "condition.kind=none.",
        )
    return mel


def _on_tensors(standardiser: Standardiser) -> Callable[[Tensor], Tensor]:
    return lambda features: torch.from_numpy(standardiser(features.numpy()))
