"""The results of `diagnose noise-ladder`, as its JSON file holds them.

Distances are spectral distances in dB to the clips without noise, levels are RMS in dBFS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latentdiff.evaluation.tolerance import Criterion, LadderSummary


@dataclass(frozen=True)
class DecodedSet:
    """Sounds decoded from one kind of latents."""

    level_db: float
    """Median over the clips; -200 for digital silence."""
    distance_db: float
    """Mean over the clips."""


@dataclass(frozen=True)
class Rung(DecodedSet):
    """Latents with noise."""

    k: float
    """Standard deviation of the noise, in units of the latents' (whitened)."""


@dataclass(frozen=True)
class OtherLatents(DecodedSet):
    """Latents that encode no sound."""

    to_mix_db: float | None = None
    """Distance to the mix of the sounds; None except for mixed latents."""


@dataclass(frozen=True)
class NoiseLadderResults(LadderSummary):
    """Everything that was measured."""

    criterion: Criterion
    """The limit that sets the tolerance."""
    limit_db: float
    """Distance at which the sound counts as broken."""
    clips: int
    held_out: bool
    """Whether the clips are of held-out files; else of training files."""
    clip_seconds: float
    all_directions: DecodedSet
    """The encodings, without leaving any direction out."""
    recordings_db: float | None
    """Level of the recordings; None, like the two below, if they cannot be read."""
    codec_db: float | None
    """Distance from the recordings to their reconstructions: the codec's own error."""
    kept_codec_db: float | None
    """The same with the kept directions only."""
    unnoised_db: float
    """Level of the clips without noise (kept directions only)."""
    rungs: list[Rung]
    """Noise added to the kept directions."""
    left_out_rungs: list[Rung]
    """Noise added to the discarded directions, in units of their deviation; empty if all are
    kept."""
    others: Mapping[str, OtherLatents]
    """Results by name, such as `white noise`."""
