"""The first sound track of anything ffmpeg can read, through a pipe."""

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

STALL_SECONDS = 60.0
"""ffmpeg is given up when it produces nothing for so long."""
_AU_HEADER = struct.Struct(">4s5I")


class FfmpegError(Exception):
    """ffmpeg is missing or could not decode the file; the message is short and says why."""


@dataclass(frozen=True)
class Stream:
    """A running decoder."""

    sample_rate: int
    """Hz."""
    channels: int
    seconds: float
    """As the container says; 0 where it does not."""
    codec: str
    blocks: Callable[[int], Iterator[np.ndarray]]
    """Given a number of samples: the sound in blocks [channels, so many] of float32."""


@contextmanager
def decoded(path: Path, rate: int | None = None) -> Iterator[Stream]:
    """The first sound track, resampled to `rate` Hz if given.

    The process ends with the context, whatever happens. Raises FfmpegError.
    """
    # A file, not a pipe: ffmpeg must never wait for somebody to read its messages.
    with tempfile.NamedTemporaryFile() as messages:
        try:
            process = subprocess.Popen(
                _command(path, rate),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                # Ctrl-C is for us; we end ffmpeg.
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
    """Reads ffmpeg's output; a read that takes too long ends the process."""

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

    def blocks(self, channels: int, frames: int) -> Iterator[np.ndarray]:
        size = frames * channels * 4
        while data := self._read(size):
            whole = len(data) // (channels * 4) * channels
            block = np.frombuffer(data, dtype=">f4", count=whole).reshape(-1, channels)
            yield np.ascontiguousarray(block.T, dtype=np.float32)
        if self._process.wait() != 0:
            raise FfmpegError(_reason(self.text()))

    def text(self) -> str:
        """What ffmpeg has said so far."""
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
        raise FfmpegError("libsndfile cannot read it and there is no ffmpeg binary") from error
    # `file:` and the whitelist: names such as `a:b.mp3` are files, and a playlist that calls itself
    # mp4 opens no network connection.
    reading = ["-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
    # The first track with sound; cover art and film are not looked at.
    track = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1"]
    resampling = ["-ar", str(rate)] if rate else []
    # AU: its header tells the true rate and channels, and it needs no length in advance.
    writing = ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    return [binary, "-nostdin", "-hide_banner", "-nostats", *reading, *track, *resampling, *writing]


def _described(text: str) -> tuple[float, str]:
    """Seconds (0: unknown) and codec, from what ffmpeg says about its input."""
    clock = re.search(r"Duration: (\d+):(\d+):(\d+\.?\d*)", text)
    seconds = 0.0
    if clock:
        hours, minutes, rest = clock.groups()
        seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
    codec = re.search(r"Audio: (\w+(?: \(\w[\w-]*\))?)", text)
    return seconds, codec.group(1) if codec else "unknown"


def _reason(text: str) -> str:
    """The few words of ffmpeg's messages that say why it failed."""
    if "matches no streams" in text:
        return "there is no sound in it"
    said = [re.sub(r"^\[[^]]*\] ", "", line) for line in text.splitlines() if line.startswith("[")]
    words = "; ".join(dict.fromkeys(said)).replace("Error opening input: ", "")
    return f"not audio that libsndfile or ffmpeg can read: {words[:200] or 'no reason given'}"
