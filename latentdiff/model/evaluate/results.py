"""The results of an evaluation, as `evaluation.json` holds them.

Shapes: L noise levels, C latent channels, B clips, N audio samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.evaluation.compare import Comparison, SetScore


@dataclass(frozen=True)
class HeldOutSkill:
    """Losses on windows of the held-out files.

    Lists hold one mean loss per noise level, from clean to noisy.
    """

    loss: float
    """Loss of the model over all levels."""
    baseline: float
    """Loss of the best denoiser that knows only the variance of each channel."""
    skill: float
    """1 - loss / baseline. 0: nothing was learned; 1: everything is known."""
    conditioning_gain: float | None
    """Relative rise of the loss if windows get each other's conditions. 0: conditions are ignored;
    None if the model follows none."""
    training_skill: float
    """The same skill on windows of the training files; far above `skill`: memorised."""
    windows: int
    """Number of held-out windows."""
    logsnr: list[float]
    """The noise levels [L]."""
    losses: list[float]
    """[L] of the model."""
    variance: list[float]
    """[L] of the best denoiser that knows only variances, on these windows."""
    zero: list[float]
    """[L] of predicting zero, in closed form."""
    wiener: list[float]
    """[L] of the best linear filter of each channel (Wiener), in closed form."""


@dataclass(frozen=True)
class LabelSpread:
    """Spread of the samples of one label."""

    samples: int
    """Samples with this label."""
    median: float
    """Median over directions of the spread, relative to the training clips with this label."""


@dataclass(frozen=True)
class Spread:
    """Standard deviation of the samples' latents over that of the training clips."""

    median: float
    """Median over directions. 1: like the training latents; lower: quieter and less varied."""
    directions: list[float]
    """[C] of each latent direction."""
    labels: dict[str, LabelSpread]
    """Spread by label, for labels with at least two samples and two training clips; empty for
    models without labels."""


@dataclass(frozen=True)
class Neighbours:
    """How much samples resemble their nearest training window; see `evaluation.copies`."""

    ratio: float
    """About 1: new; near 0: copied from training files. See `Copies.ratio`."""
    samples: float
    """Median over the samples of 1 - resemblance to the training window they are closest to."""
    held_out: float
    """The same of held-out clips."""
    seconds: float
    """Length of a window."""


@dataclass(frozen=True)
class Level:
    """RMS levels in dBFS of a set of clips; digital silence counts as -200."""

    median_db: float
    quietest_db: float
    loudest_db: float
    silent: int
    """Clips below the level that counts as silence (`evaluation.sound.SILENT_DB`)."""
    clips: int
    """Number of clips."""
    each_db: list[float]
    """[B]."""


@dataclass(frozen=True)
class Levels:
    """Levels of the samples and, for comparison, of decoded training clips."""

    samples: Level
    training: Level


@dataclass(frozen=True)
class ConditionFollowing:
    """Mean spectral distance in dB of samples to the recordings whose spectrograms they follow."""

    clips: int
    """Number of samples and recordings."""
    held_out: bool
    """Whether the recordings are held-out ones."""
    right_db: float
    """Distance to the recording that each sample follows."""
    codec_db: float
    """Distance of the codec's reconstructions to the recordings: the smallest distance possible."""
    wrong_db: float | None
    """Distance to another recording; if `right_db` is no smaller, conditions are ignored. None:
    there is only one recording."""


@dataclass(frozen=True)
class StepScore:
    """Scores of samples drawn with another number of sampler steps."""

    steps: int
    calls: int
    """Network calls per sample."""
    latent: SetScore
    mel: SetScore | None
    """None without a codec."""


@dataclass(frozen=True)
class SamplingFacts:
    """Sampling settings that decide which advice can help."""

    steps: int
    guidance: float
    """Classifier-free guidance; 1 is none."""
    can_guide: bool
    """Whether guidance can make samples follow their condition more closely: not for models
    without a condition, or that were trained with condition.dropout=0, or that are regressions."""
    autoguidance: float
    """Strength of autoguidance; 1 is none."""
    regression: bool
    """Whether the model is a regression, which makes one network call for any `steps`."""


@dataclass(frozen=True)
class Examples:
    """The first few decoded clips of a set, to listen to and to look at."""

    sounds: list[NDArray[np.float32]]
    """Each [channels, N] at the codec's sample rate."""
    mels: Tensor
    """[B, bands, frames] log-mel spectrograms in dB."""


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that `evaluate_model` measures.

    Comparisons are between sets of clips named in `evaluation.compare`.
    """

    checkpoint: str
    """Path of the model; `the model in training` if it was not loaded from a file."""
    step: int
    """Training steps of the model."""
    samples: int
    """Number of samples."""
    seconds: float
    """Length of a sample."""
    clip_seconds: float
    """Length of a real clip."""
    window_seconds: float
    """Length of a training window."""
    clips: int
    """Real clips per set."""
    held_out: HeldOutSkill | None
    """None without held-out files."""
    calls: int
    """Network calls per sample."""
    sampling: SamplingFacts
    latent: Comparison
    """Comparison of the latents, in standard deviations of the training clips."""
    spread: Spread
    neighbours: Neighbours | None
    """None without held-out files."""
    mel: Comparison | None
    """Comparison of log-mel spectrograms in dB; None without a codec."""
    embeddings: dict[str, Comparison] | None
    """Comparison of the features of each embedding; None without a codec."""
    level: Levels | None
    """None without a codec."""
    condition: ConditionFollowing | None
    """None without a codec or recordings, or if the model follows no spectrograms."""
    steps: list[StepScore]
    """One score per number of steps requested."""
    skipped: list[str]
    """Measurements that could not be made, each with the reason."""
    examples: Mapping[str, Examples] = field(default_factory=dict, repr=False, compare=False)
    """Examples by set; empty without a codec. Not part of the JSON file."""

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """All comparisons, by the kind of features."""
        kinds = {"latents": self.latent}
        if self.mel is not None:
            kinds["mel"] = self.mel
        return {**kinds, **(self.embeddings or {})}
