"""What `evaluate` works on and what it finds out.

Shapes: B clips, C latent channels, D latent dimensions, F features, n windows, N audio samples, T
frames of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff.evaluation.compare import Comparison
from latentdiff.evaluation.embeddings import Embedding
from latentdiff.latents.store import LatentStore
from latentdiff.model.clips import ClipSets
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.specs import Codec
from latentdiff.training.data import generator_for

HANDFUL = 4
"""Clips of a set that are kept as sound."""


@dataclass(frozen=True)
class Job:
    """What is evaluated, and how."""

    model: Model
    store: LatentStore
    clips: ClipSets
    codec: Codec | None
    """None: the sound cannot be judged, the latents can."""
    project: Project
    n: int
    frames: int
    """T of a sample; at least that of the real clips."""
    embeddings: Mapping[str, Embedding]
    directory: Path

    @property
    def count(self) -> int:
        """Clips of a set that is compared."""
        return len(self.clips.reference.places)

    def seeded(self, what: str) -> torch.Generator:
        """What it draws depends on the seed and on `what`."""
        return generator_for(self.project.seed, "evaluate", what)


@dataclass(frozen=True)
class Latents:
    """A set of clips."""

    final: Tensor
    """[B, C, T]."""
    raw: Tensor
    """[B, D, T]."""
    calls: int = 0
    """Of the network, a sample."""


@dataclass
class Heard:
    """What sets of clips sound like; the sound itself is kept of a handful."""

    mels: dict[str, Tensor] = field(default_factory=dict)
    """[B, bands, frames] in dB."""
    levels: dict[str, list[float]] = field(default_factory=dict)
    """dBFS RMS of each clip."""
    embedded: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By embedding, then set: features [n, F]."""
    kept: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """The first HANDFUL of each set, [channels, N]."""


@dataclass
class Measured:
    """All that was found out."""

    results: dict[str, Any]
    """As `evaluation.json` holds it."""
    heard: Heard = field(default_factory=Heard)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    """By kind of features."""
    losses: list[str] = field(default_factory=list)
    """What could not be measured, and why."""
