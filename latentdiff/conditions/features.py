"""The interface of frame-wise condition features.

Shapes: K features, M feature frames, N audio samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from latentdiff.conditions.registry import FEATURES
from latentdiff.config import Values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from latentdiff.conditions.settings import ConditionConfig

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureKind(ABC):
    """Features of a recording that a model can follow, with their settings."""

    sample_rate: int
    """Hz, of the audio that the features are computed from."""
    hop: int
    """Audio samples from one feature frame to the next."""
    size: int
    """K."""

    @classmethod
    @abstractmethod
    def of(cls, condition: ConditionConfig) -> FeatureKind:
        """The kind with the settings that it has in the section `condition`, if any."""

    @abstractmethod
    def blocks(self, audio: Iterable[Floats]) -> Iterator[Floats]:
        """Features in blocks [K, m] of mono audio that arrives in blocks [1, N] of any length.

        Frame k describes the audio around sample k * hop, with silence outside the recording, so
        that M = 1 + N // hop in all. How the audio is cut into blocks makes no difference.
        """

    def identity(self) -> Values:
        """Every setting that changes the features, as JSON; stores record it.

        Models are not trained on a store whose record differs.
        """
        return asdict(self)

    def frames(self, seconds: float) -> float:
        """M that `seconds` of audio have, as a real number."""
        return seconds * self.sample_rate / self.hop


def feature_kind(name: str, condition: ConditionConfig) -> FeatureKind:
    """The features registered as `name`, with the settings that they have in `condition`."""
    module, _, class_name = FEATURES[name].place.rpartition(".")
    kind: type[FeatureKind] = getattr(import_module(f"{__package__}.{module}"), class_name)
    return kind.of(condition)
