"""Large arrays: in memory up to a size, and beyond it in files that vanish with the process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from latentdiff import runs
from latentdiff.errors import UserError


@dataclass(frozen=True)
class RowStorage:
    """Where the rows of windows are held."""

    memory_gb: float
    """Largest array that is held in memory."""
    scratch: Path | None
    """Folder for the files of larger ones; None: everything is held in memory."""

    def spills(self, rows: int, width: int) -> bool:
        """Whether 32-bit rows [`rows`, `width`] are held on disk."""
        return self.scratch is not None and rows * width * 4 > self.memory_gb * 1e9

    def allocate(
        self, rows: int, width: int, dtype: DTypeLike = np.float32, *, on_disk: bool
    ) -> NDArray[Any]:
        """[rows, width], not initialised. Raises UserError if the disk has no room for it."""
        if self.scratch is None or not on_disk:
            return np.empty((rows, width), dtype)
        size = rows * width * np.dtype(dtype).itemsize
        # Writing to a map on a full disk kills the process (SIGBUS), so check first.
        if runs.free_bytes(self.scratch) < size:
            raise UserError(
                f"{self.scratch} has no room for {size / 1e9:.1f} GB of whitened latents",
                why=f"{runs.free_bytes(self.scratch) / 1e9:.1f} GB are free",
                do_this="free some space, or raise training.memory_gb to hold them in memory.",
            )
        # Unnamed: the map keeps it alive, and nothing is left behind even if the process is killed.
        with tempfile.TemporaryFile(dir=self.scratch) as handle:
            return np.memmap(handle, dtype, "w+", shape=(rows, width))
