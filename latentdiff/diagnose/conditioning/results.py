"""Results of `diagnose conditioning`, in the structure of `conditioning.json`."""

from __future__ import annotations

from dataclasses import dataclass

from latentdiff.diagnose.followed import Fit, Verdict
from latentdiff.evaluation.permutation import Exchange


@dataclass(frozen=True)
class Losses:
    """Losses on the same windows and noise, with the windows' own conditions and with wrong ones.

    A gain is the share by which wrong conditions raise the loss; 0: the condition is ignored.
    """

    windows: int
    right: float
    """Mean loss with each window's own condition."""
    baseline: float
    """Mean loss of a denoiser that knows only the variance of each channel."""
    exchanged: float
    """Mean loss with conditions exchanged among the windows."""
    gain: float
    """Gain with exchanged conditions: exchanged / right - 1."""
    gains: dict[str, float]
    """Gains with other wrong conditions: `none`, `other label`, `other spectrogram`."""


@dataclass(frozen=True)
class Difference:
    """How unlike two sets of clips are, clip by clip."""

    latents: float
    """0: identical; sqrt(2): unrelated, as between two white noises."""
    sound_db: float | None
    """Mean spectral distance in dB; None without a codec."""


@dataclass(frozen=True)
class Strength:
    """How strong clips are."""

    spread: float
    """Standard deviation of the latents over that of the training latents."""
    level_db: float | None
    """Median level in dBFS; None without a codec."""


@dataclass(frozen=True)
class GuidanceRow(Strength):
    """Samples drawn with one guidance scale and the clips' own conditions."""

    scale: float
    """0: the condition is ignored; 1: no guidance."""
    from_free: float
    """Difference of latents from samples that ignore the condition."""
    to_followed: float | None
    """Difference of latents from the clips; None where the model follows labels only."""


@dataclass(frozen=True)
class KindResult:
    """Does the model follow one kind of condition?"""

    verdict: Verdict
    exchange: Exchange | None
    """Losses with this kind right and exchanged; None: there is nothing to exchange it for."""
    fit: Fit | None
    """How the stored features of training files fit the latents; None for kinds without any."""


@dataclass(frozen=True)
class Results:
    """Does the model follow its condition?"""

    checkpoint: str
    step: int
    """Training steps behind the weights."""
    kinds: list[str]
    """The kinds of conditions that the model follows, at least one."""
    clips: int
    clip_seconds: float
    held_out: bool
    """Whether the clips and windows are of held-out files."""
    judged: dict[str, KindResult]
    """The verdict on each kind."""
    losses: Losses
    changes: dict[str, Difference]
    """How far another condition or other noise moves a sample; see `report.CHANGES`."""
    to_followed: dict[str, Difference]
    """Distances between the clips and samples with their condition (`right`) or another one (`other
    condition`); empty for models of labels only."""
    followed: Strength
    """Strength of the clips themselves."""
    guidance: list[GuidanceRow]
    """Empty where the model cannot be guided (condition.dropout=0)."""
