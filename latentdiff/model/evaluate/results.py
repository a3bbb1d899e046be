"""The results of an evaluation, as `evaluation.json` holds them.

Shapes: L noise levels, C latent channels, B clips, N audio samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.coherence import Coherence
from latentdiff.evaluation.copies import Copies
from latentdiff.evaluation.scores import FormScores, Interval
from latentdiff.evaluation.wandering import Wandering


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
class Copying:
    """Whether samples copy training recordings; see `evaluation.copies`."""

    found: bool
    share: float
    """Estimated share 0..1 of copies among the samples."""
    p: float | None
    """The chance of real clips to come this close to other recordings. None: too few of these."""
    ratio: float
    """How much closer than real clips the samples come to their nearest training window, as
    medians. 1: as new; near 0: copies."""
    leaked: int
    """Held-out clips that are training recordings themselves."""
    seconds: float
    """Length of the windows that were compared."""

    @classmethod
    def of(cls, copies: Copies, seconds: float) -> Copying:
        """The summary of a search with windows of `seconds`."""
        return cls(copies.found, copies.share, copies.p, copies.ratio, len(copies.leaked), seconds)


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
    latents: Interval
    sound: Interval | None
    """None without a codec."""


@dataclass(frozen=True)
class SamplingFacts:
    """Sampling settings that decide which advice can help."""

    steps: int
    guidance: float
    """Classifier-free guidance; 1 is none."""
    can_guide: bool
    """Whether guidance can make samples follow their condition more closely: not for models
    without a condition, or that were trained with condition.dropout=0, or whose calls are fixed."""
    autoguidance: float
    """Strength of autoguidance; 1 is none."""
    fixed_calls: bool
    """Whether the model is a regression or distilled: it makes the same network calls for any
    `steps`, without autoguidance."""


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that `evaluate_model` measures.

    Sets of clips are named in `evaluation.sets`, the fakes among them in `evaluation.controls`.
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
    """None without held-out files, and for distilled models, whose losses are of something else."""
    calls: int
    """Network calls per sample."""
    sampling: SamplingFacts
    latents: FormScores
    """Of the whitened latents."""
    sound: FormScores | None
    """None without a codec."""
    embeddings: dict[str, FormScores]
    """By embedding; empty without a codec."""
    coherence: dict[str, Coherence]
    """By set, fakes included."""
    wandering: dict[str, Wandering]
    """By set, fakes included; empty if clips are shorter than two stretches."""
    spread: Spread
    copying: Copying
    level: Levels | None
    """None without a codec."""
    condition: ConditionFollowing | None
    """None without a codec or recordings, or if the model follows no spectrograms."""
    steps: list[StepScore]
    """One score per number of steps requested."""
    skipped: list[str]
    """Measurements that could not be made, each with the reason."""
    distilled: str | None = None
    """Calls and teacher of a distilled model, in a line; None: it is not one."""
    examples: Mapping[str, list[NDArray[np.float32]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """The first few decoded clips [channels, N] by set; empty without a codec. Not part of the JSON
    file."""

    @property
    def kinds(self) -> dict[str, FormScores]:
        """All scores, by what they are of."""
        sound = {} if self.sound is None else {"sound": self.sound}
        return {"latents": self.latents, **sound, **self.embeddings}
