"""Audio files as a stream of blocks, read by libsndfile or, failing that, the ffmpeg binary.

Shapes: N samples; blocks are [channels, N] float32, nominally in -1..1.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentdiff.audio import ffmpeg
from latentdiff.audio.find import printable
from latentdiff.audio.health import HealthMeter
from latentdiff.audio.resample import resample, too_odd
from latentdiff.errors import UserError

if TYPE_CHECKING:
    import soundfile


class AudioError(UserError):
    """A file that cannot be used; `why` is the reason in a few words."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(
            f"cannot use {printable(path)}",
            why=reason,
            do_this="repair, convert or remove the file.",
        )


@dataclass(frozen=True)
class AudioInfo:
    """Metadata from a file's header, read without decoding it."""

    seconds: float
    """0 if the header does not state it."""
    sample_rate: int
    """Hz."""
    channels: int
    format: str
    """The decoder's name for it, such as `WAV PCM_16` or `aac (LC)`."""
    decoder: str
    """`soundfile` or `ffmpeg`."""


@dataclass(frozen=True)
class _Source:
    info: AudioInfo
    blocks: Callable[[int], Iterator[NDArray[np.float32]]]
    """Samples per block -> the blocks."""


def probe(path: Path, channels: int | None = None) -> AudioInfo:
    """Read the header of an audio file.

    Raises AudioError if it is not one, or cannot be mixed to `channels` (None: any number).
    """
    with _opened(path) as source:
        _check_channels(path, source.info.channels, channels)
        return source.info


def blocks(
    path: Path,
    sample_rate: int | None = None,
    channels: int | None = None,
    block_seconds: float = 10.0,
    meter: HealthMeter | None = None,
) -> Generator[NDArray[np.float32], None, None]:
    """The file as blocks [channels, N] of float32, in constant memory whatever its length.

    `sample_rate` (Hz) and `channels`: None keeps the file's own. Many channels become 1 by
    averaging, 1 becomes many by repetition. Blocks last about `block_seconds`. `meter` measures the
    file's own samples, before they are mixed and resampled.

    Raises AudioError if the file cannot be decoded, has no samples or NaN or Inf among them, or has
    a number of channels that cannot become `channels`. Close the generator to stop early.
    """
    with _opened(path) as source:
        rate = sample_rate or source.info.sample_rate
        if not too_odd(source.info.sample_rate, rate):
            yield from _converted(path, source, rate, channels, block_seconds, meter)
            return
    with _opened(path, ffmpeg_rate=rate) as source:
        yield from _converted(path, source, rate, channels, block_seconds, meter)


def read(
    path: Path, sample_rate: int | None = None, channels: int | None = None
) -> tuple[NDArray[np.float32], int]:
    """The whole file [channels, N] and its sample rate in Hz; see `blocks`."""
    rate = sample_rate or probe(path).sample_rate
    return np.concatenate(list(blocks(path, rate, channels)), axis=1), rate


def _converted(
    path: Path,
    source: _Source,
    rate: int,
    channels: int | None,
    block_seconds: float,
    meter: HealthMeter | None,
) -> Iterator[NDArray[np.float32]]:
    want = channels or source.info.channels
    _check_channels(path, source.info.channels, channels)
    frames = max(1, round(block_seconds * source.info.sample_rate))
    decoded = _checked(path, source, frames)
    if meter is not None:
        decoded = meter.watch(decoded, source.info.sample_rate)
    mixed = (_mixed(block, want) for block in decoded)
    yield from resample(mixed, source.info.sample_rate, rate)


def _check_channels(path: Path, have: int, want: int | None) -> None:
    if want not in (None, 1, have) and have != 1:
        raise AudioError(path, f"{have} channels cannot become {want}: only mono can be repeated")


def _checked(path: Path, source: _Source, frames: int) -> Iterator[NDArray[np.float32]]:
    """The blocks of a source; AudioError if a sample is not finite or there are none."""
    total = 0
    for block in source.blocks(frames):
        finite = np.isfinite(block).all(axis=0)
        if not finite.all():
            seconds = (total + int(np.argmin(finite))) / source.info.sample_rate
            raise AudioError(path, f"NaN or Inf samples, the first at {seconds:.3f} s")
        total += block.shape[1]
        yield block
    if total == 0:
        raise AudioError(path, "no samples")


def _mixed(block: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    if block.shape[0] == channels:
        return block
    mean = block.mean(axis=0, keepdims=True)
    return mean if channels == 1 else np.repeat(mean, channels, axis=0)


@contextmanager
def _opened(path: Path, ffmpeg_rate: int | None = None) -> Iterator[_Source]:
    """The file, open for reading. `ffmpeg_rate` (Hz): have ffmpeg read it and resample to that."""
    import soundfile

    if not Path(path).is_file():
        raise AudioError(path, "no such file")
    try:
        file = None if ffmpeg_rate else soundfile.SoundFile(str(path))
    except (soundfile.LibsndfileError, TypeError):  # TypeError: headerless formats
        file = None
    if file is not None:
        with file:
            yield _Source(_sndfile_info(file), partial(_sndfile_blocks, path, file))
        return
    try:
        with ffmpeg.decoded(path, ffmpeg_rate) as stream:
            info = AudioInfo(
                stream.seconds, stream.sample_rate, stream.channels, stream.codec, "ffmpeg"
            )
            yield _Source(info, stream.blocks)
    except ffmpeg.FfmpegError as error:
        raise AudioError(path, str(error)) from error


def _sndfile_info(file: soundfile.SoundFile) -> AudioInfo:
    seconds = file.frames / file.samplerate
    kind = f"{file.format} {file.subtype}"
    return AudioInfo(seconds, file.samplerate, file.channels, kind, "soundfile")


def _sndfile_blocks(
    path: Path, file: soundfile.SoundFile, frames: int
) -> Iterator[NDArray[np.float32]]:
    import soundfile

    while True:
        # Not SoundFile.read: it stops at the header's frame count, which for mp3 is an estimate.
        block = np.empty((frames, file.channels), dtype=np.float32)
        try:
            count = file.buffer_read_into(block, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise AudioError(path, f"damaged: {error.error_string}") from error
        if count == 0:
            return
        yield np.ascontiguousarray(block[:count].T)
