"""Where clips were cut from recordings, so that clips that share sound are known.

Shapes: B clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """The places of clips of equal length."""

    files: tuple[str, ...]
    """The recording of each clip."""
    starts: tuple[int, ...]
    """First frame of each clip."""
    frames: int
    """Length of a clip."""

    def overlaps(self, other: Places) -> Tensor:
        """[B, B'], whether clips share frames."""
        number = {name: index for index, name in enumerate({*self.files, *other.files})}
        file, files = (torch.tensor([number[name] for name in x.files]) for x in (self, other))
        start, starts = (torch.tensor(x.starts) for x in (self, other))
        return ((start[:, None] - starts).abs() < self.frames) & (file[:, None] == files)

    def ranks(self) -> Tensor:
        """[B], the place of each clip among all of them, from 0, by recording and time."""
        places = list(zip(self.files, self.starts, strict=True))
        ranks = torch.empty(len(places), dtype=torch.long)
        ranks[sorted(range(len(places)), key=places.__getitem__)] = torch.arange(len(places))
        return ranks

    def distinct(self) -> int:
        """Clips that remain if of overlapping ones only the first is kept."""
        overlaps, kept = self.overlaps(self), list[int]()
        for row in range(len(self.files)):
            if not bool(overlaps[row, kept].any()):
                kept.append(row)
        return len(kept)
