"""Writes audio files: complete or not at all, and within full scale.

Shapes: N samples.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentdiff.audio.limiter import Limiter
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
    """Largest magnitude of a sample, before limiting; 1 is full scale."""
    clipped: int
    """Number of samples cut off at full scale; 0 for a limited file, and for FLOAT."""
    limited_db: float
    """By how much the loudest peak was turned down, in dB; 0: not at all."""


def write(
    path: Path,
    audio: NDArray[np.floating[Any]] | Iterable[NDArray[np.floating[Any]]],
    sample_rate: int,
    audio_format: AudioFormat = "wav",
    subtype: Subtype = "PCM_16",
    limit: bool = True,
) -> WriteReport:
    """Write audio [channels, N] or [N], or an iterable of such blocks, at `sample_rate` Hz.

    Peaks beyond full scale are turned down by a `Limiter`; without `limit` they are cut off. FLOAT
    has room for them and is written as it is. Blocks are written as they arrive; the file appears
    under its name once it is complete. Raises UserError if a sample is NaN or Inf, there are no
    blocks, or the disk refuses.
    """
    import soundfile

    blocks = iter([audio] if isinstance(audio, np.ndarray) else audio)
    first = next(blocks, None)
    if first is None:
        raise UserError(f"nothing to write to {path}", why="the audio has no blocks")
    tally, limiter = _Tally(path), Limiter(sample_rate)
    data: Iterable[NDArray[np.floating[Any]]] = map(tally.checked, chain([first], blocks))
    if subtype != "FLOAT":
        data = limiter(data) if limit else map(tally.cut_off, data)
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
                for block in data:
                    _write(file, block)
        except soundfile.LibsndfileError as error:
            raise OSError(errno.EIO, error.error_string) from error
    seconds, reduction = tally.frames / sample_rate, limiter.reduction_db
    return WriteReport(seconds, tally.peak, tally.clipped, reduction)


def _write(file: soundfile.SoundFile, block: NDArray[np.floating[Any]]) -> None:
    data = block.T
    # On a full disk libsndfile writes less than asked, which SoundFile.write only asserts against.
    before = file.frames
    try:
        file.write(data)
    except AssertionError:
        written = file.frames - before
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} samples fit") from None


class _Tally:
    """Measures the samples on their way to disk."""

    def __init__(self, path: Path) -> None:
        self.frames = 0
        self.peak = 0.0
        self.clipped = 0
        self._path = path

    def checked(self, block: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The block [channels, N], or [N], as [channels, N]."""
        block = np.atleast_2d(block)
        if not np.isfinite(block).all():
            raise UserError(
                f"{self._path} was not written",
                why="the audio has NaN or Inf samples: the program that made it failed",
            )
        self.frames += block.shape[1]
        if block.size:
            self.peak = max(self.peak, float(np.abs(block).max()))
        return block

    def cut_off(self, block: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The block [channels, N], clipped to -1..1."""
        self.clipped += int(np.count_nonzero(np.abs(block) > 1))
        return np.clip(block, -1, 1)
