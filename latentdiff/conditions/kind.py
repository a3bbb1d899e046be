"""The interfaces of condition kinds: from audio, from latents, or a category.

Shapes: C latent channels, K features, M feature frames, N audio samples, T latent frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from latentdiff.conditions.registry import KINDS
from latentdiff.conditions.resample import resample_blocks
from latentdiff.config import Section, Values

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from latentdiff.conditions.beats import BeatGrid
    from latentdiff.conditions.settings import ConditionConfig
    from latentdiff.conditions.standardiser import Standardiser
    from latentdiff.specs import Allocate, DerivedFeatures

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """A recording, or a part of one, that features are taken from."""

    blocks: Callable[[int], Iterable[Floats]]
    """Mono audio [1, N] in blocks of any length, at a sample rate in Hz."""
    seconds: float
    beats: Callable[[], BeatGrid | None]
    """Its beats; None: it has none."""


@dataclass(frozen=True)
class Target:
    """The sample that features are made for."""

    frame_rate: float
    """Latent frames per second."""
    frames: int
    """T."""
    options: Mapping[str, Sequence[str]]
    """What was asked for, by the option's name, such as {"bpm": ["125"]}."""
    reference: Mapping[str, Floats | None]
    """Kind -> what describes the training file whose conditions fill in for those not asked for;
    None: that file has none."""
    recording: Callable[[Path], Sound]
    """The recording in a file. Raises AudioError."""
    latents: Callable[[Path], Floats]
    """Final latents [C, T] of the end of a recording. Raises AudioError, and UserError without a
    codec."""
    of_file: Callable[[str, str], Floats | None]
    """(kind, key) -> what describes that training file; KeyError for a key that is none."""
    made: Mapping[str, Floats] = field(default_factory=dict)
    """Raw features [K, T] of the kinds before this one, be they made or of a recording."""


class ConditionKind(ABC):
    """What samples can follow, with its settings."""

    name: ClassVar[str]
    """As in the registry."""
    least_std: ClassVar[float] = 1e-3
    """Features are scaled to unit variance over the training files, but for those that vary less
    than this."""

    @classmethod
    @abstractmethod
    def of(cls, condition: ConditionConfig) -> ConditionKind:
        """The kind with its settings."""

    def names_file(
        self, options: Mapping[str, Sequence[str]], is_key: Callable[[str], bool]
    ) -> str | None:
        """The recording or training file that the options name for a piece as a whole; None:
        none. It fills in for kinds that were not asked for. `is_key`: whether a word is the key of
        a training file."""
        return None

    def make(self, target: Target) -> Floats | None:
        """Raw features [K, T] for a sample; None: it is to follow none of this kind.

        Raises UserError for options that cannot be understood.
        """
        return None


class FeatureKind(ConditionKind):
    """Features of a recording, which `encode` stores beside its latents."""

    size: int
    """K."""
    optional: ClassVar[bool] = False
    """Whether a recording may have none."""

    @abstractmethod
    def extract(self, sound: Sound, frames: int, frame_rate: float) -> Iterator[Floats] | None:
        """Features of `frames` latent frames in all, in blocks [K, t].

        Frame j covers the time from j / frame_rate to (j + 1) / frame_rate. None: the recording
        has no such features, such as a beat.
        """

    def features(self, sound: Sound, frames: int, frame_rate: float) -> Floats | None:
        """The blocks of `extract` as one array [K, T]."""
        blocks = self.extract(sound, frames, frame_rate)
        return None if blocks is None else np.concatenate(list(blocks), axis=1)

    def identity(self) -> Values:
        """Every setting that changes the features, as JSON; stores record it.

        Models are not trained on a store whose record differs.
        """
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def describe(self, features: Floats) -> Floats | None:
        """What a training file's features [K, T] leave in the model, [k]; `Target.reference`.

        None: nothing, so that a sample follows this kind only if it is asked to.
        """
        return None


@dataclass(frozen=True)
class SpectralKind(FeatureKind):
    """Features with a frame rate of their own, resampled to that of the latents."""

    sample_rate: int
    """Hz, of the audio that the features are computed from."""
    hop: int
    """Audio samples from one feature frame to the next."""
    size: int
    """K."""

    @abstractmethod
    def blocks(self, audio: Iterable[Floats]) -> Iterator[Floats]:
        """Features in blocks [K, m] of mono audio that arrives in blocks [1, N] of any length.

        Frame k describes the audio around sample k * hop, with silence outside the recording, so
        that M = 1 + N // hop in all. How the audio is cut into blocks makes no difference.
        """

    def extract(self, sound: Sound, frames: int, frame_rate: float) -> Iterator[Floats]:
        ratio = self.sample_rate / self.hop / frame_rate
        return resample_blocks(self.blocks(sound.blocks(self.sample_rate)), frames, ratio)


@dataclass(frozen=True)
class ConfiguredKind(SpectralKind):
    """A spectral kind with a section of settings."""

    config: Section

    def identity(self) -> Values:
        # As version 0.1 recorded them for mel: stores that were encoded then must stay valid.
        # Dropout is a matter of training alone.
        return self.config.model_dump(mode="json", exclude={"dropout"})


class LatentKind(ConditionKind):
    """Features of the latents themselves, made anew for each training window."""

    @abstractmethod
    def size(self, channels: int) -> int:
        """K for C latent channels."""

    @abstractmethod
    def describe(self, latents: Floats, frame_rate: float) -> Floats:
        """What describes a recording of final latents [C, T], [k]; `Target.reference`."""

    @abstractmethod
    def fit(self, files: Iterable[Floats], frame_rate: float) -> tuple[Standardiser, Floats]:
        """From the final latents [C, T] of every training file: the standardiser of the features,
        and what describes each file, [files, k]."""

    @abstractmethod
    def windows(
        self,
        rows: Tensor,
        lengths: Tensor,
        frame_rate: float,
        standardiser: Standardiser,
        allocate: Allocate,
    ) -> DerivedFeatures:
        """The features of windows of files laid end to end.

        `rows` [F, C]: final latents; `lengths` [files]: frames of each file. `allocate` makes
        arrays that grow with F.
        """


class CategoryKind(ConditionKind):
    """One of several values for a whole file, such as a label."""


def condition_kind(name: str, condition: ConditionConfig) -> ConditionKind:
    """The kind registered as `name`, with the settings that it has in `condition`."""
    module, _, class_name = KINDS[name].place.rpartition(".")
    kind: type[ConditionKind] = getattr(import_module(f"{__package__}.{module}"), class_name)
    return kind.of(condition)


def feature_kinds(names: Iterable[str], condition: ConditionConfig) -> dict[str, FeatureKind]:
    """Those of the kinds called `names` that `encode` stores, by name."""
    kinds = {name: condition_kind(name, condition) for name in names}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, FeatureKind)}
