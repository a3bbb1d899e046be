"""What a model remembers of its training files, for conditions that nobody asked for.

Shapes: k numbers that describe a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.conditions.labels import recording_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MOST = 4096
"""Files that are remembered; of more, as many are taken evenly."""


@dataclass(frozen=True)
class References:
    """The training files, each described by a few numbers for every kind of condition."""

    keys: Sequence[str] = ()
    """Of the files, as in the manifest of the latents."""
    values: Mapping[str, Floats] = field(default_factory=dict)
    """Kind -> [files, k]; a row of NaN: the file has none of the kind."""

    @classmethod
    def of(cls, keys: Sequence[str], values: Mapping[str, Sequence[Floats | None]]) -> References:
        """From what describes each file, kind by kind; kinds that no file has are left out."""
        chosen = np.unique(np.linspace(0, len(keys) - 1, min(len(keys), MOST)).round().astype(int))
        tables = {}
        for kind, rows in values.items():
            known = [row for row in rows if row is not None]
            if known:
                none = np.full_like(known[0], np.nan)
                table = np.stack([none if row is None else row for row in rows])
                tables[kind] = table[chosen].astype(np.float32)
        return cls([keys[k] for k in chosen], tables) if tables else cls()

    def __len__(self) -> int:
        """Number of files."""
        return len(self.keys)

    def at(self, index: int) -> dict[str, Floats | None]:
        """Kind -> what describes the file at `index`, [k]; None: it has none of the kind."""
        rows = {kind: table[index] for kind, table in self.values.items()}
        return {kind: None if np.isnan(row).any() else row for kind, row in rows.items()}

    def find(self, key: str) -> int | None:
        """Index of a file by its key, with or without its ending; None: there is no such file.

        A recording that `encode` split is found by its own key too.
        """
        for index, name in enumerate(self.keys):
            whole = recording_key(name)
            if key in (name, whole, name.rpartition(".")[0], whole.rpartition(".")[0]):
                return index
        return None


NO_REFERENCES = References()
"""Of a model that remembers no file."""
