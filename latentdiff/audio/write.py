"""Sound to disk: whole or not at all, and every clipped sample counted.

Shapes: N samples.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from latentdiff.errors import UserError
from latentdiff.runs import atomic

if TYPE_CHECKING:
    import soundfile

AudioFormat = Literal["wav", "flac"]
Subtype = Literal["PCM_16", "PCM_24", "FLOAT"]


@dataclass(frozen=True)
class WriteReport:
    """What was written."""

    seconds: float
    peak: float
    """Largest absolute sample before clipping; 1 is full scale."""
    clipped: int
    """Samples beyond full scale, written as full scale; 0 for FLOAT, which holds them."""


def write(
    path: Path,
    audio: np.ndarray | Iterable[np.ndarray],
    sample_rate: int,
    audio_format: AudioFormat = "wav",
    subtype: Subtype = "PCM_16",
) -> WriteReport:
    """Write sound [channels, N] or [N], or an iterable of such blocks, at `sample_rate` Hz.

    Blocks are written as they come; the file takes its name when the last one is on disk.
    Raises UserError where a sample is NaN or Inf, nothing came, or the disk refuses.
    """
    import soundfile

    blocks = iter([audio] if isinstance(audio, np.ndarray) else audio)
    first = next(blocks, None)
    if first is None:
        raise UserError(f"nothing to write to {path}", why="the sound has no blocks")
    tally = _Tally(path, clip=subtype != "FLOAT")
    with atomic(path) as partial:
        try:
            with soundfile.SoundFile(
                str(partial),
                "w",
                samplerate=sample_rate,
                channels=np.atleast_2d(first).shape[0],
                # By name: the suffix of the half-written file says nothing.
                format=audio_format.upper(),
                subtype=subtype,
            ) as file:
                _write(file, tally, first)
                for block in blocks:
                    _write(file, tally, block)
        except soundfile.LibsndfileError as error:
            raise OSError(errno.EIO, error.error_string) from error
    return WriteReport(tally.frames / sample_rate, tally.peak, tally.clipped)


def _write(file: soundfile.SoundFile, tally: _Tally, block: np.ndarray) -> None:
    data = tally.checked(np.atleast_2d(block)).T
    # A full disk shows as a short write, which SoundFile.write only asserts against.
    before = file.frames
    try:
        file.write(data)
    except AssertionError:
        written = file.frames - before
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} samples fitted") from None


class _Tally:
    """Counts what passes on its way to disk."""

    def __init__(self, path: Path, clip: bool) -> None:
        self.frames = 0
        self.peak = 0.0
        self.clipped = 0
        self._path = path
        self._clip = clip

    def checked(self, block: np.ndarray) -> np.ndarray:
        """The block [channels, N], clipped to -1..1 where the file cannot hold more."""
        if not np.isfinite(block).all():
            raise UserError(
                f"will not write {self._path}",
                why="the sound holds NaN or Inf samples, so what made it has failed",
            )
        self.frames += block.shape[1]
        if block.size:
            self.peak = max(self.peak, float(np.abs(block).max()))
        if not self._clip:
            return block
        self.clipped += int(np.count_nonzero(np.abs(block) > 1))
        return np.clip(block, -1, 1)
