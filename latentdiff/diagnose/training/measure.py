"""A trained model on the latents that it was trained on, measured for its diagnosis.

Shapes: B windows, C latent channels, D latent dimensions, K condition features, T frames.
"""

from __future__ import annotations

import copy
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from latentdiff.diagnose.followed import Fit, exchanges, fits
from latentdiff.diagnose.training.causes_network import BatchNormLosses, SampleStatistics
from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation import activations, directions
from latentdiff.evaluation.activations import Activations, rms
from latentdiff.evaluation.directions import Directions
from latentdiff.evaluation.leaks import Leak, find_leaks
from latentdiff.evaluation.permutation import Exchange
from latentdiff.latents.outliers import Outliers, find_outliers
from latentdiff.latents.store import LatentStore
from latentdiff.model.data import windows_of
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.sampling import draw_like
from latentdiff.specs import Denoise
from latentdiff.tracking import progress
from latentdiff.training import verdict
from latentdiff.training.data import Batch, Windows, generator_for
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.validation import Validation, Validator

T = TypeVar("T")

PLACES = (0.05, 0.5, 0.95)
"""Schedule times t (0: clean, 1: noise) at which activations are measured."""
PROBED = 16
"""Number of windows to measure activations on, and of samples to draw."""


@dataclass(frozen=True)
class ModelMeasurements:
    """A model on the latents that it was trained on."""

    model: Model
    sampling: SamplingConfig
    """How samples were drawn, with autoguidance resolved."""
    same_files: bool | None
    """Whether the latents are still those of run.json; None: it recorded none."""
    directions: Directions
    learnable: float
    """Skill of the spectrum-only denoiser (the best linear filter) on training windows."""
    train: Validation
    """Losses on training windows."""
    held_out: Validation | None
    """Losses on held-out windows; None without any."""
    recorded: float | None
    """Held-out loss of the same weights during training; None without any."""
    held_out_losses: list[float]
    """Mean loss of each held-out window."""
    fits: dict[str, Fit]
    """Kind -> how its stored features fit the latents; without kinds that have none."""
    exchanges: dict[str, Exchange]
    """Kind -> losses on held-out windows (training ones if there are none) with that kind right and
    exchanged."""
    files: int
    """Number of files in the store."""
    outliers: list[Outliers]
    """Files that do not belong with the others."""
    leaks: list[Leak]
    """Held-out files that are also trained on."""
    activations: dict[float, Activations]
    """Activations by log-SNR."""
    growth: float
    """Magnitude of the typical weight matrix over that of a fresh one."""
    batch_norms: BatchNormLosses | None
    """None without BatchNorm."""
    samples: SampleStatistics

    @property
    def skill(self) -> float:
        """Skill on training windows."""
        return self.train.skill

    @property
    def form_skill(self) -> float | None:
        """Skill where form is decided, on held-out windows if there are any.

        None: no such level."""
        return verdict.form_skill(self.train if self.held_out is None else self.held_out)

    @property
    def gains(self) -> list[float]:
        """Conditioning gains on training and held-out windows, as far as there are any."""
        gains = (v.conditioning_gain for v in (self.train, self.held_out) if v is not None)
        return [gain for gain in gains if gain is not None]


def measure_model(
    model: Model, store: LatentStore, settings: Project, same_files: bool | None, scratch: Path
) -> ModelMeasurements:
    """Everything, on the latents in `store`; `settings` are those of the training.

    Raises UserError where the latents lack what the model needs.
    """
    training = settings.training
    train, held_out = (
        windows_of(model, store, split, memory_gb=training.memory_gb, scratch=scratch)
        for split in ("train", "validation")
    )
    assert train is not None  # training saw these files
    known = model.task().baseline_losses(train)
    assert known is not None  # only a distillation has none, and its models have no task
    files = [(store.mean(entry), store.std(entry)) for entry in store.of("train")]
    probed, sampling = train.spread(PROBED), model.resolve(settings.sampling)
    with progress(total=10, unit="measure", what="examining the model") as bar:

        def done(value: T) -> T:
            bar.update(1)
            return value

        return ModelMeasurements(
            model,
            sampling,
            same_files,
            directions=done(directions.measure(files, model.whitening)),
            learnable=done(known.learnable),
            train=done(_validate(model, model.denoiser, train, training)),
            held_out=done(
                None if held_out is None else _validate(model, model.denoiser, held_out, training)
            ),
            recorded=model.validation_loss,
            held_out_losses=[] if held_out is None else _by_window(model, held_out, training),
            fits=done(fits(model, store)),
            exchanges=done(
                exchanges(model, (held_out or train).spread(training.validation_windows), training)
            ),
            files=len(store.entries),
            outliers=done(find_outliers(store)),
            leaks=find_leaks(store, model.whiten, model.codec.frame_rate),
            activations=done(_activations(model, probed)),
            growth=_growth(model),
            batch_norms=done(_batch_norms(model, train, training)),
            samples=done(_samples(model, probed, sampling)),
        )


def _validate(
    model: Model, denoise: Denoise, windows: Windows, settings: TrainingConfig
) -> Validation:
    """Losses as training validates: the same windows, noise levels and noise."""
    fixed = windows.spread(settings.validation_windows)
    validator = Validator(fixed, model.task(), settings.validation_levels, settings.batch)
    return validator.measure(denoise, model.device)


def _by_window(model: Model, windows: Windows, settings: TrainingConfig) -> list[float]:
    fixed = windows.spread(settings.validation_windows)
    validator = Validator(fixed, model.task(), settings.validation_levels, settings.batch)
    losses: list[float] = validator.table(model.denoiser, fixed, model.device).mean(dim=0).tolist()
    return losses


def _activations(model: Model, windows: Batch) -> dict[float, Activations]:
    network = model.denoiser.network
    assert isinstance(network, nn.Module)
    batch, by_level = windows.to(model.device), {}
    generator = generator_for("diagnose")
    noise = torch.randn(windows.latents.shape, generator=generator).to(model.device)
    for logsnr in model.schedule(torch.tensor(PLACES)).tolist():
        level = torch.full((len(noise),), logsnr, device=model.device)
        alpha, sigma = alpha_sigma(level[:, None, None])
        z_t = alpha * batch.latents + sigma * noise
        call = partial(model.denoiser, z_t, level, batch.condition)
        by_level[round(logsnr, 1)] = activations.measure(network, call)
    return by_level


def _growth(model: Model) -> float:
    """Growth of weight matrices, without those initialised to zero."""
    fresh = Model.create(model.spec, model.whitening, model.standardisers).denoiser
    pairs = zip(model.denoiser.parameters(), fresh.parameters(), strict=True)
    ratios = [
        rms(trained) / rms(start)
        for trained, start in pairs
        if start.dim() > 1 and bool(start.any())
    ]
    return statistics.median(ratios)


def _batch_norms(
    model: Model, windows: Windows, settings: TrainingConfig
) -> BatchNormLosses | None:
    """Losses with BatchNorm's running statistics and with those of single-level batches."""
    other = copy.deepcopy(model.denoiser)
    layers = {name: m for name, m in other.named_modules() if isinstance(m, _BatchNorm)}
    if not layers:
        return None
    used = _validate(model, model.denoiser, windows, settings)
    for layer in layers.values():
        layer.train()
    own = _validate(model, other, windows, settings)
    return BatchNormLosses(list(layers), used.logsnr, used.losses, own.losses)


def _samples(model: Model, windows: Batch, settings: SamplingConfig) -> SampleStatistics:
    """Statistics of one sample per window, with that window's length and condition."""
    samples = draw_like(model, windows, settings)
    # [C, frames]; padding is not part of the latents.
    latents = windows.latents.transpose(1, 2)[windows.mask].T
    drawn = samples.transpose(0, 1).flatten(1)
    std = latents.std(dim=1).clamp(min=1e-6)
    offset = (drawn.mean(dim=1) - latents.mean(dim=1)) / std
    return SampleStatistics((drawn.std(dim=1) / std).tolist(), offset.tolist(), len(samples))
