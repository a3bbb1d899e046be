"""Labels as a condition."""

from __future__ import annotations

from latentdiff.conditions.kind import CategoryKind
from latentdiff.conditions.settings import ConditionConfig


class Label(CategoryKind):
    """The label of a recording: the name of its folder, or from a file; see `labels`."""

    name = "label"

    @classmethod
    def of(cls, condition: ConditionConfig) -> Label:
        return cls()
