"""The kinds of features that a model can follow, by the name in the settings.

A new one is a file of its own and a line here. Its class says what belongs to it; see
`features.FeatureKind`. Classes are imported when they are asked for, because reading the settings
must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentdiff.conditions.features import FeatureKind


@dataclass(frozen=True)
class FeatureEntry:
    """Where a kind of features is found."""

    place: str
    """`module.Class` in this room."""
    summary: str
    """For the reference of the settings."""

    def load(self) -> type[FeatureKind]:
        """Its class."""
        module, _, name = self.place.rpartition(".")
        found: type[FeatureKind] = getattr(import_module(f"{__package__}.{module}"), name)
        return found


FEATURES = {
    "mel": FeatureEntry("mel.Mel", "follows a mel spectrogram, frame by frame"),
}
