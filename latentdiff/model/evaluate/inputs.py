"""What an evaluation starts from: a model, real clips, a codec, and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import UserError
from latentdiff.evaluation.embeddings import Embedding
from latentdiff.evaluation.movement import SHORTEST
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import LatentStore
from latentdiff.model.clips import ClipSets, gather
from latentdiff.model.condition_inputs import followed_kinds
from latentdiff.model.model import Model
from latentdiff.specs import Codec
from latentdiff.training.data import generator_for
from latentdiff.training.settings import TrainingConfig

LONGEST_SECONDS = 12.0
"""Longest clips that are compared: about as long as one listens to judge."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is evaluated."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How samples are drawn."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Used: validation_windows, validation_levels, batch and memory_gb."""
    latents: LatentConfig = field(default_factory=LatentConfig)
    """Used: chunk_seconds and batch, for decoding."""
    seed: int = 0
    """Seed of the samples and of all other random draws."""
    n: int = 32
    """Number of samples; at most as many real clips per set are compared with them."""
    seconds: float | None = None
    """Length of a sample. None: sampling.seconds or, if the model follows spectrograms, that of a
    real clip."""
    steps: tuple[int, ...] = ()
    """Further numbers of sampler steps to score."""
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)
    """Further features of sound to compare, by name."""


@dataclass(frozen=True)
class Comparison:
    """The real clips that sets are compared with."""

    clips: ClipSets
    frame_rate: float
    """Latent frames a second."""
    seed: int
    """Of the samples, the fakes and the bootstrap."""

    def generator(self, purpose: str) -> torch.Generator:
        """A generator that depends on the seed and the purpose only."""
        return generator_for(self.seed, "evaluate", purpose)


@dataclass(frozen=True)
class EvaluationInputs:
    """A model and all that it is measured with."""

    model: Model
    store: LatentStore
    clips: ClipSets
    codec: Codec | None
    """None: only latents are compared, not sound."""
    settings: EvaluationSettings
    scratch: Path | None
    """Folder for latents that exceed training.memory_gb; None: all are held in memory."""

    @property
    def sample_frames(self) -> int:
        """Latent frames of a sample."""
        return sample_frames(self.model, self.clips, self.settings)

    @property
    def comparison(self) -> Comparison:
        """The clips, and how they are compared with others."""
        return Comparison(self.clips, self.model.codec.frame_rate, self.settings.seed)


def choose_clips(model: Model, store: LatentStore, settings: EvaluationSettings) -> ClipSets:
    """Real clips to compare `settings.n` samples with, no longer than these.

    Raises UserError if these or the training files are too short.
    """
    if followed_kinds(model):
        frames = model.spec.frames(settings.seconds or LONGEST_SECONDS)
    else:
        seconds = settings.seconds or settings.sampling.seconds
        frames = model.spec.frames(min(seconds, LONGEST_SECONDS))
    if frames < SHORTEST:
        least = model.spec.seconds(SHORTEST)
        raise UserError(
            f"samples of {model.spec.seconds(frames):.2g} s are too short to score",
            why=f"clips are described by how they change over time; that takes {SHORTEST} frames",
            do_this=f"give --seconds {math.ceil(100 * least) / 100:g} or more.",
        )
    return gather(model, store, settings.n, frames)


def sample_frames(model: Model, clips: ClipSets, settings: EvaluationSettings) -> int:
    """Latent frames of a sample: those of a clip where samples follow the clips' spectrograms."""
    if followed_kinds(model):
        return clips.frames
    return model.spec.frames(settings.seconds or settings.sampling.seconds)
