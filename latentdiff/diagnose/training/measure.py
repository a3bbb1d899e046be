"""A trained model on the latents that it was trained on, measured for its diagnosis.

Shapes: B windows, C latent channels, D latent dimensions, K condition features, T frames.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from latentdiff import config
from latentdiff.diagnose.training.causes_network import BatchNorms, Samples
from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation import activations, directions, pairing, whiteness
from latentdiff.evaluation.activations import Activations, rms
from latentdiff.evaluation.directions import Directions
from latentdiff.evaluation.pairing import Pairing
from latentdiff.latents.store import LatentStore, same_fingerprint
from latentdiff.model.data import windows_of
from latentdiff.model.model import Model
from latentdiff.model.sampling import draw_like
from latentdiff.runs import RunInfo
from latentdiff.tracking import progress
from latentdiff.training.data import Batch, Windows, generator_for
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import Task
from latentdiff.training.validation import Validation, Validator

PLACES = (0.05, 0.5, 0.95)
"""Of the schedule's t, clean to noisy, at which magnitudes are measured."""
PROBED = 16
"""Windows on which magnitudes are measured, and samples that are drawn."""
PAIRED = 100_000
"""Frames of training files that pairing is judged by."""


@dataclass(frozen=True)
class Measured:
    """A model on the latents that it was trained on."""

    model: Model
    directions: Directions
    same_files: bool | None
    """Whether the latents are still those that run.json recorded; None = it recorded none."""
    learnable: float
    """Skill of a filter that knows the spectra of the training windows."""
    train: Validation
    """Losses on windows of the training files."""
    held_out: Validation | None
    """On those of held-out files; None where there are none."""
    recorded: float | None
    """Held-out loss of the same weights in training; None where there was none."""
    pairing: Pairing | None
    """None where the condition is no spectrogram."""
    activations: dict[float, Activations]
    """By log-SNR."""
    growth: float
    """Size of the typical weight matrix over that of a fresh one."""
    batch_norms: BatchNorms | None
    samples: Samples

    @property
    def skill(self) -> float:
        """On training windows."""
        return self.train.skill

    @property
    def gains(self) -> list[float]:
        """Conditioning gains on training and held-out windows, where there are conditions."""
        found = (v.conditioning_gain for v in (self.train, self.held_out) if v is not None)
        return [gain for gain in found if gain is not None]


@dataclass(frozen=True)
class Judge:
    """Losses as validation measured them in training: same windows, levels and noise."""

    task: Task
    settings: TrainingConfig

    def losses(self, denoiser: nn.Module, windows: Windows | None) -> Validation | None:
        """None where there are no windows."""
        if windows is None:
            return None
        fixed = windows.spread(self.settings.validation_windows)
        validator = Validator(
            fixed, self.task, self.settings.validation_levels, self.settings.batch
        )
        return validator.measure(denoiser, next(denoiser.parameters()).device)


def look(
    model: Model,
    store: LatentStore,
    info: RunInfo,
    sampling: SamplingConfig,
    scratch: Path,
) -> Measured:
    """Everything, on the latents in `store`; `info` is the run.json of the training.

    Raises UserError where the latents lack what the model needs.
    """
    settings = config.build(TrainingConfig, info.config["training"], source=str(scratch))
    train, held_out = (
        windows_of(model, store, split, memory_gb=settings.memory_gb, scratch=scratch)
        for split in ("train", "validation")
    )
    assert train is not None  # training saw these files
    judge, probed = Judge(model.task(), settings), train.spread(PROBED)
    files = [(store.mean(entry), store.std(entry)) for entry in store.of("train")]
    parts: dict[str, Callable[[], Any]] = {
        "directions": partial(directions.measure, files, model.whitening),
        "same_files": partial(_same_files, store, info),
        "learnable": lambda: judge.task.baseline_losses(train).learnable,
        "train": partial(judge.losses, model.denoiser, train),
        "held_out": partial(judge.losses, model.denoiser, held_out),
        "recorded": lambda: model.validation_loss,
        "pairing": partial(_pairing, model, store),
        "activations": partial(_activations, model, probed),
        "growth": partial(_growth, model),
        "batch_norms": partial(_batch_norms, model.denoiser, judge, train),
        "samples": partial(_samples, model, probed, sampling),
    }
    with progress(parts.items(), unit="measure", what="looking at the model") as bar:
        return Measured(model, **{name: part() for name, part in bar})


def _same_files(store: LatentStore, info: RunInfo) -> bool | None:
    recorded = info.fingerprint("latents")
    return None if recorded is None else same_fingerprint(recorded, store.fingerprint())


def _pairing(model: Model, store: LatentStore) -> Pairing | None:
    """Of the channels that have structure along time: in white noise nothing can be predicted."""
    if model.standardiser is None:
        return None
    files, frames = [], 0
    for entry in store.of("train"):
        features = store.mel(entry)
        assert features is not None  # the windows were cut from them
        latents = torch.from_numpy(np.array(store.mean(entry), dtype=np.float32))
        told = torch.from_numpy(model.standardiser(np.asarray(features)))
        files.append((model.whiten(latents), told))
        frames += entry.frames
        if frames > PAIRED:
            break
    chosen = ~whiteness.white(z for z, _ in files)
    if not chosen.any():
        return None
    return pairing.pairing([(z[chosen], told) for z, told in files])


def _activations(model: Model, windows: Batch) -> dict[float, Activations]:
    device = model.device
    batch, found = windows.to(device), {}
    noise = torch.randn(windows.latents.shape, generator=generator_for("diagnose")).to(device)
    network: Any = model.denoiser.network
    for logsnr in model.schedule(torch.tensor(PLACES)).tolist():
        level = torch.full((len(noise),), logsnr, device=device)
        alpha, sigma = alpha_sigma(level[:, None, None])
        z_t = alpha * batch.latents + sigma * noise
        call = partial(model.denoiser, z_t, level, batch.condition)
        found[round(logsnr, 1)] = activations.measure(network, call)
    return found


def _growth(model: Model) -> float:
    """Of weights that begin at something: those of zero have no size to compare with."""
    fresh = Model.create(model.spec, model.whitening, model.standardiser).denoiser
    pairs = zip(model.denoiser.parameters(), fresh.parameters(), strict=True)
    ratios = [
        rms(trained) / rms(begun)
        for trained, begun in pairs
        if begun.dim() > 1 and bool(begun.any())
    ]
    return statistics.median(ratios)


def _batch_norms(denoiser: nn.Module, judge: Judge, windows: Windows) -> BatchNorms | None:
    """Their harm: the loss in use beside the loss with the statistics of batches of one level."""
    other = copy.deepcopy(denoiser)
    layers = {name: m for name, m in other.named_modules() if isinstance(m, _BatchNorm)}
    if not layers:
        return None
    used = judge.losses(denoiser, windows)
    for layer in layers.values():
        layer.train()
    own = judge.losses(other, windows)
    assert used is not None and own is not None  # there are windows
    return BatchNorms(list(layers), used.logsnr, used.losses, own.losses)


def _samples(model: Model, windows: Batch, settings: SamplingConfig) -> Samples:
    """As long as the windows, following their conditions."""
    drawn = draw_like(model, windows, settings)
    real = windows.latents.transpose(1, 2)[windows.mask].T
    made = drawn.transpose(0, 1).flatten(1)
    std = real.std(dim=1).clamp(min=1e-6)
    spread, offset = made.std(dim=1) / std, (made.mean(dim=1) - real.mean(dim=1)) / std
    return Samples(spread.tolist(), offset.tolist(), len(drawn))
