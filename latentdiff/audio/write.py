"""Writes audio files: complete or not at all, with every clipped sample counted.

Shapes: N samples.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentdiff.errors import UserError
from latentdiff.runs import atomic

if TYPE_CHECKING:
    import soundfile

AudioFormat = Literal["wav", "flac"]
Subtype = Literal["PCM_16", "PCM_24", "FLOAT"]


@dataclass(frozen=True)
class WriteReport:
    """Statistics of a written audio file."""

    seconds: float
    peak: float
    """Largest magnitude of a sample, before clipping; 1 is full scale."""
    clipped: int
    """Number of samples clipped to full scale; always 0 for FLOAT, which needs no clipping."""


def write(
    path: Path,
    audio: NDArray[np.floating[Any]] | Iterable[NDArray[np.floating[Any]]],
    sample_rate: int,
    audio_format: AudioFormat = "wav",
    subtype: Subtype = "PCM_16",
) -> WriteReport:
    """Write audio [channels, N] or [N], or an iterable of such blocks, at `sample_rate` Hz.

    Blocks are written as they arrive; the file appears under its name once it is complete.
    Raises UserError if a sample is NaN or Inf, there are no blocks, or the disk refuses.
    """
    import soundfile

    blocks = iter([audio] if isinstance(audio, np.ndarray) else audio)
    first = next(blocks, None)
    if first is None:
        raise UserError(f"nothing to write to {path}", why="the audio has no blocks")
    tally = _Tally(path, clip=subtype != "FLOAT")
    with atomic(path) as partial:
        try:
            with soundfile.SoundFile(
                str(partial),
                "w",
                samplerate=sample_rate,
                channels=np.atleast_2d(first).shape[0],
                # Explicitly: the partial file's suffix does not name the format.
                format=audio_format.upper(),
                subtype=subtype,
            ) as file:
                _write(file, tally, first)
                for block in blocks:
                    _write(file, tally, block)
        except soundfile.LibsndfileError as error:
            raise OSError(errno.EIO, error.error_string) from error
    return WriteReport(tally.frames / sample_rate, tally.peak, tally.clipped)


def _write(file: soundfile.SoundFile, tally: _Tally, block: NDArray[np.floating[Any]]) -> None:
    data = tally.checked(np.atleast_2d(block)).T
    # On a full disk libsndfile writes less than asked, which SoundFile.write only asserts against.
    before = file.frames
    try:
        file.write(data)
    except AssertionError:
        written = file.frames - before
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} samples fit") from None


class _Tally:
    """Measures the samples on their way to disk."""

    def __init__(self, path: Path, clip: bool) -> None:
        self.frames = 0
        self.peak = 0.0
        self.clipped = 0
        self._path = path
        self._clip = clip

    def checked(self, block: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The block [channels, N], clipped to -1..1 if the format needs that."""
        if not np.isfinite(block).all():
            raise UserError(
                f"{self._path} was not written",
                why="the audio has NaN or Inf samples: the program that made it failed",
            )
        self.frames += block.shape[1]
        if block.size:
            self.peak = max(self.peak, float(np.abs(block).max()))
        if not self._clip:
            return block
        self.clipped += int(np.count_nonzero(np.abs(block) > 1))
        return np.clip(block, -1, 1)
