"""The kinds of features that a model can follow, by the name in the settings.

A new one is a file of its own and a line here. Its class declares its settings; see
`features.FeatureKind`. This module imports none of them, because reading the settings must not
import torch; `features.feature_kind` does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureEntry:
    """Import location of a kind of features."""

    place: str
    """`module.Class` in this package."""
    summary: str
    """One line for the settings reference."""


FEATURES = {
    "mel": FeatureEntry("mel.Mel", "follows a mel spectrogram, frame by frame"),
}
