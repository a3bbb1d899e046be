"""`train-diffusion`: a store of latents -> a diffusion model, each loss beside its baseline."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import config, runs
from latentdiff.conditioning import ConditionConfig, MelConfig, Standardiser, label_names
from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.loss import Objective
from latentdiff.errors import UserError
from latentdiff.latents import statistics
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import STATISTICS, CodecFacts, Entry, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.networks.build import describe
from latentdiff.runs import Input, Run
from latentdiff.tracking import tensorboard_hint
from latentdiff.training import checkpoint, verdict
from latentdiff.training.data import Recording, Windows
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import Task
from latentdiff.training.trainer import Outcome, Trainer
from latentdiff.workflows.model import header_of, make_denoiser
from latentdiff.workflows.project import Project, begin

log = logging.getLogger(__name__)

SECTIONS = ("latents", "condition", "diffusion", "network", "training")
FIXED = ("window", "validation_windows", "validation_levels")
"""Of `training`: changing these would make validation losses incomparable within a run."""
MAY_CHANGE = (
    *(f"training.{name}" for name in TrainingConfig.model_fields if name not in FIXED),
    "latents.keep_std",
    "latents.chunk_seconds",
    "latents.batch",
)
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

    def windows(self, split: str, settings: TrainingConfig, scratch: Path) -> Windows | None:
        """The windows of a split; None where it has no files."""
        entries = self.store.of(split)
        if not entries:
            return None
        return Windows(
            [self._recording(entry) for entry in entries],
            settings.window,
            whiten=self.whitening.whiten,
            standardise=None if self.standardiser is None else _on_tensors(self.standardiser),
            memory_gb=settings.memory_gb,
            scratch=scratch,
        )

    def _recording(self, entry: Entry) -> Recording:
        label = self.labels.index(entry.label) if self.labels and entry.label else None
        features = None if self.standardiser is None else self.store.mel(entry)
        return Recording(entry.key, self.store.mean(entry), features, label)


def train_diffusion(
    run: Run,
    project: Project,
    *,
    latents: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Train on `latents` (or the run's own) up to `training.steps`; the same command resumes."""
    store = LatentStore.open(latents or run.latents)
    check(store, project.training)
    data = _data(store, project)
    denoiser = make_denoiser(
        project.network,
        project.diffusion,
        channels=data.whitening.channels,
        features=0 if data.standardiser is None else len(data.standardiser.mean),
        labels=len(data.labels),
        seed=project.seed,
    )
    _announce(data, project, denoiser)
    if dry_run:
        log.info("dry run: nothing was written; it would train in %s", run.diffusion)
        return []
    inputs = {"latents": Input(str(store.root.resolve()), store.fingerprint())}
    if data.codec.fingerprint:
        inputs["codec"] = Input(data.codec_path, data.codec.fingerprint)
    stage = begin(
        run,
        project,
        run.diffusion,
        "train-diffusion",
        sections=SECTIONS,
        inputs=inputs,
        # A run that never came to a checkpoint has nothing to protect from other settings.
        overwrite=overwrite or not any((run.diffusion / checkpoint.FOLDER).glob("*")),
        may_change=MAY_CHANGE,
    )
    if stage is None:
        return []
    with stage:
        trainer = _trainer(run, project, data, denoiser)
        _tell_baselines(trainer)
        log.info("%s", tensorboard_hint(run.root.parent))
        outcome = trainer.fit()
        stage.record(**_result(outcome))
    _conclude(outcome)
    return []


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


def _data(store: LatentStore, project: Project) -> Data:
    found = _statistics(store)
    condition = project.condition
    standardiser, labels = None, []
    if condition.kind == "mel":
        _check_mel(store, condition.mel)
        standardiser = Standardiser.fit(_mel(store, entry) for entry in store.of("train"))
    if condition.kind == "label":
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
    whitening = Whitening.from_statistics(found, project.latents.keep)
    path = _inputs_of(store).get("codec", {}).get("path", "")
    return Data(store, found, whitening, condition, standardiser, labels, codec, path)


def _statistics(store: LatentStore) -> LatentStatistics:
    """Those that `encode` left, or those of a plain folder, gathered now."""
    path = store.root / STATISTICS
    if path.exists() or store.codec is not None:
        return LatentStatistics.load(path)
    return statistics.fit((store.mean(entry), store.std(entry)) for entry in store.of("train"))


def _check_mel(store: LatentStore, wanted: MelConfig) -> None:
    """The spectrograms of the store must be of the kind that `sample` will compute."""
    recorded = _inputs_of(store).get("condition.mel")
    made_with = None if recorded is None else json.loads(recorded["path"])
    changed = config.differences(made_with or {}, wanted.model_dump(mode="json"), "condition.mel.")
    if made_with is not None and changed:
        raise UserError(
            f"the mel spectrograms in {store.root} were made with other settings:\n    "
            + "\n    ".join(changed),
            why="samples would follow another kind of spectrogram than was trained on",
            do_this="drop those settings, or encode again.",
        )


def _inputs_of(store: LatentStore) -> dict[str, Any]:
    info = runs.read_run(store.root) or {}
    return dict(info.get("inputs", {}))


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


def _announce(data: Data, project: Project, denoiser: Denoiser) -> None:
    settings = project.training
    store, frame = data.store, data.codec.hop / data.codec.sample_rate
    log.info("latents: %s", data.statistics.describe(project.latents.keep))
    for split in ("train", "validation"):
        entries = store.of(split)
        frames = sum(entry.frames for entry in entries)
        log.info(
            "%s: %d files, %d frames, %.1f minutes",
            split,
            len(entries),
            frames,
            frames * frame / 60,
        )
    if not store.of("validation"):
        log.warning(
            "no file is held out: losses are told on the training files only, so learning by "
            "heart cannot be seen, and the last weights are kept instead of the best"
        )
    short = sum(entry.frames < settings.window for entry in store.of("train"))
    if short:
        log.info("%d training files are shorter than a window and are padded", short)
    network = describe(denoiser.network)  # type: ignore[arg-type]
    log.info(
        "network: %s (window %d frames = %.1f s)", network, settings.window, settings.window * frame
    )


def _trainer(run: Run, project: Project, data: Data, denoiser: Denoiser) -> Trainer:
    settings, diffusion = project.training, project.diffusion
    schedule = noise.build(diffusion.schedule)
    for warning in schedule.warnings:
        log.warning("%s", warning)
    train = data.windows("train", settings, run.diffusion)
    assert train is not None  # `check` saw the files
    constants: dict[str, Any] = {"whitening": data.whitening.state_dict()}
    if data.standardiser is not None:
        arrays = data.standardiser.arrays()
        constants["features"] = {key: torch.from_numpy(value) for key, value in arrays.items()}
    return Trainer(
        denoiser,
        Task(Objective.from_config(diffusion), schedule),
        train,
        data.windows("validation", settings, run.diffusion),
        settings,
        run.diffusion,
        constants=constants,
        header=header_of(
            project.network,
            diffusion,
            data.condition,
            data.codec,
            data.codec_path,
            data.labels,
            settings.window,
        ),
        condition_dropout=data.condition.dropout,
        seed=project.seed,
        device=project.device,
    )


def _tell_baselines(trainer: Trainer) -> None:
    known = trainer.references
    log.info(
        "losses of models that learned nothing: predicts zero %.4f; knows the variance of each "
        "channel %.4f (skill 0); knows its spectrum too %.4f (skill %.2f)",
        known.zero,
        known.variance,
        known.spectrum,
        known.learnable,
    )


def _result(outcome: Outcome) -> dict[str, Any]:
    values = outcome.training if outcome.best is None else outcome.best.metrics()
    kept = ("loss", "baseline", "skill", "conditioning_gain")
    return {
        "step": outcome.step,
        "best_step": outcome.best_step,
        "validated": outcome.best is not None,
        **{key: round(values[key], 6) for key in kept if key in values},
        "checkpoint": str(outcome.path),
    }


def _conclude(outcome: Outcome) -> None:
    best, last = outcome.best, outcome.validation
    if best is None or last is None:
        log.info(
            "done at step %d: %s on the training files (%s)",
            outcome.step,
            verdict.short(outcome.training),
            verdict.skill(outcome.training["skill"]),
        )
    else:
        log.info(
            "done at step %d; best at step %s on held-out files: %s (%s)",
            outcome.step,
            outcome.best_step,
            verdict.short(best.metrics()),
            verdict.skill(best.skill),
        )
        if best.conditioning_gain is not None:
            gain = best.conditioning_gain
            log.info("conditioning gain %.2f: %s", gain, verdict.conditioning(gain))
        if last.loss > verdict.RISEN * best.loss:
            log.warning("%s", verdict.overfitting(outcome.step, outcome.best_step, last, best))
    log.info("checkpoint: %s; next: latentdiff sample", outcome.path)
