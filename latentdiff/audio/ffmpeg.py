"""Decodes the first audio track of anything ffmpeg can read, through a pipe."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STALL_SECONDS = 60.0
"""ffmpeg is killed after producing nothing for this long."""
_AU_HEADER = struct.Struct(">4s5I")


class FfmpegError(Exception):
    """ffmpeg is missing or could not decode the file; the message is a short reason."""


@dataclass(frozen=True)
class Stream:
    """A running decoder."""

    sample_rate: int
    """Hz."""
    channels: int
    seconds: float
    """Duration from the container's metadata; 0 if unknown."""
    codec: str
    blocks: Callable[[int], Iterator[NDArray[np.float32]]]
    """Samples per block -> the blocks, [channels, samples] float32."""


@contextmanager
def decoded(path: Path, rate: int | None = None) -> Iterator[Stream]:
    """The first audio track, resampled to `rate` Hz if given.

    Leaving the context ends the process, whatever happens. Raises FfmpegError.
    """
    # A file, not a pipe: a full pipe would block ffmpeg until someone read its messages.
    with tempfile.NamedTemporaryFile() as messages:
        try:
            process = subprocess.Popen(
                _command(path, rate),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                # Keeps the terminal's Ctrl-C from ffmpeg: we end it ourselves.
                start_new_session=True,
            )
        except OSError as error:
            raise FfmpegError(f"ffmpeg cannot be started: {error.strerror}") from error
        pipe = _Pipe(process, Path(messages.name))
        try:
            sample_rate, channels = pipe.header()
            seconds, codec = _described(pipe.text())
            yield Stream(sample_rate, channels, seconds, codec, partial(pipe.blocks, channels))
        finally:
            process.kill()
            process.wait()
            pipe.output.close()


class _Pipe:
    """Reads ffmpeg's output; a read that stalls kills the process."""

    def __init__(self, process: subprocess.Popen[bytes], messages: Path) -> None:
        assert process.stdout is not None
        self.output = process.stdout
        self._process = process
        self._messages = messages

    def header(self) -> tuple[int, int]:
        """Sample rate and channels from the AU header, which ends where the samples begin."""
        head = self._read(_AU_HEADER.size)
        if len(head) < _AU_HEADER.size:
            self._process.wait()
            raise FfmpegError(_reason(self.text()))
        _, offset, _, _, sample_rate, channels = _AU_HEADER.unpack(head)
        self._read(offset - _AU_HEADER.size)
        return sample_rate, channels

    def blocks(self, channels: int, frames: int) -> Iterator[NDArray[np.float32]]:
        size = frames * channels * 4
        while data := self._read(size):
            whole = len(data) // (channels * 4) * channels
            block = np.frombuffer(data, dtype=">f4", count=whole).reshape(-1, channels)
            yield np.ascontiguousarray(block.T, dtype=np.float32)
        if self._process.wait() != 0:
            raise FfmpegError(_reason(self.text()))

    def text(self) -> str:
        """ffmpeg's messages so far."""
        return self._messages.read_text(encoding="utf-8", errors="replace")

    def _read(self, size: int) -> bytes:
        stalled = threading.Event()

        def give_up() -> None:
            stalled.set()
            self._process.kill()

        timer = threading.Timer(STALL_SECONDS, give_up)
        timer.daemon = True
        timer.start()
        try:
            data = self.output.read(size)
        finally:
            timer.cancel()
        if stalled.is_set():
            raise FfmpegError(f"ffmpeg produced nothing for {STALL_SECONDS:.0f} s")
        return data


def _command(path: Path, rate: int | None) -> list[str]:
    import imageio_ffmpeg

    try:
        binary = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise FfmpegError("libsndfile cannot read it, and no ffmpeg binary was found") from error
    # `file:`, or ffmpeg would take `a:b.mp3` for a protocol; the whitelist, or a playlist disguised
    # as an mp4 could open network connections.
    reading = ["-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
    # The first audio track only: cover art and video would be decoded for nothing.
    track = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1"]
    resampling = ["-ar", str(rate)] if rate else []
    # AU: its header states rate and channels, and unlike WAV's needs no length in advance.
    writing = ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    return [binary, "-nostdin", "-hide_banner", "-nostats", *reading, *track, *resampling, *writing]


def _described(text: str) -> tuple[float, str]:
    """Seconds (0: unknown) and codec, from ffmpeg's messages about its input."""
    clock = re.search(r"Duration: (\d+):(\d+):(\d+\.?\d*)", text)
    seconds = 0.0
    if clock:
        hours, minutes, rest = clock.groups()
        seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
    codec = re.search(r"Audio: (\w+(?: \(\w[\w-]*\))?)", text)
    return seconds, codec.group(1) if codec else "unknown"


def _reason(text: str) -> str:
    """The reason for the failure, from ffmpeg's messages."""
    if "matches no streams" in text:
        return "it has no audio track"
    reasons = [
        re.sub(r"^\[[^]]*\] ", "", line) for line in text.splitlines() if line.startswith("[")
    ]
    words = "; ".join(dict.fromkeys(reasons)).replace("Error opening input: ", "")
    return f"not audio that libsndfile or ffmpeg can read: {words[:200] or 'no reason given'}"
