"""Any amount of audio through a codec, in flat memory, as if each file had been done in one piece.

A network that pads its layers with zeros sees a file's border as a border only if the window it is
given ends there too. So no window is ever padded: the first one of a file begins where the file
begins, the last one ends where it ends, and those between overlap by what the codec looks around.
Windows are run together with others of exactly their length, from whatever file.

Shapes: B batch, C channels of either side, D latent dimensions, F frames, N samples, T frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff.specs import Codec

Blocks = Iterable[np.ndarray]
"""One file, float32 [C, any number], in order."""

POOL = 16
"""Files shorter than a window wait for others of their length; at most so many batches of them."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the result of one file. The pieces of a file come in order and leave no gap."""

    key: Hashable
    first: int
    """Index of its first column in the file's result."""
    arrays: tuple[np.ndarray, ...]
    """Each float32 [C, n]: (mean, std) from `encode_files`, (audio,) from `decode_files`."""
    last: bool
    """Whether the file is complete with it."""
    size: int
    """Columns of the input that it stands for; they add up to the length of the file's input."""


@dataclass(frozen=True)
class _Window:
    key: Hashable
    input: np.ndarray
    """[C, frames * unit]."""
    skip: int
    """Frames at its head that an earlier window has delivered."""
    first: int
    """The file's frame at which its own delivery begins."""
    keep: int
    """Frames that it delivers."""
    last: bool
    size: int


def files_together(
    codec: Codec, frames: int, *, chunk_seconds: float = 20.0, batch: int = 1
) -> int:
    """How many files of so many frames `encode_files` gives the codec in one call: those that
    follow each other among the files of that length."""
    chunk = _chunk(codec, chunk_seconds, codec.encode_context)
    return max(1, batch * chunk // frames) if frames <= chunk else 1


def _chunk(codec: Codec, seconds: float, context: tuple[int, int]) -> int:
    """Frames of a window. One much shorter than the overlap would do most of the work twice."""
    return max(round(seconds * codec.sample_rate / codec.hop), 4 * sum(context), 1)


def encode_files(
    codec: Codec,
    files: Iterable[tuple[Hashable, Blocks]],
    *,
    chunk_seconds: float = 20.0,
    batch: int = 1,
) -> Iterator[Piece]:
    """Encode files, each given as (key, blocks [channels, n] at the codec's rate).

    Each becomes (mean, std), [D, ceil(N / hop)], its end filled up with silence to a whole frame.
    One call of the codec sees at most `batch` * `chunk_seconds` of audio: so many long windows, or
    as many short files of one length as fit. A file without samples yields nothing.
    """
    chunk = _chunk(codec, chunk_seconds, codec.encode_context)
    run = _Batches(codec.encode, codec.hop, 1, codec.encode_context, chunk, batch)
    yield from run(files)


def decode_files(
    codec: Codec,
    files: Iterable[tuple[Hashable, Blocks]],
    *,
    chunk_seconds: float = 20.0,
    batch: int = 1,
) -> Iterator[Piece]:
    """Decode files, each given as (key, blocks [D, t] of latents), to audio [channels, T * hop]."""
    chunk = _chunk(codec, chunk_seconds, codec.decode_context)

    def decode(z: Tensor) -> tuple[Tensor, ...]:
        return (codec.decode(z),)

    run = _Batches(decode, 1, codec.hop, codec.decode_context, chunk, batch)
    yield from run(files)


def encode(codec: Codec, audio: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Audio [channels, N] in memory -> mean and std [D, T]; options as for `encode_files`."""
    pieces = list(encode_files(codec, [(None, [audio])], **options))
    mean, std = (np.concatenate(arrays, -1) for arrays in zip(*(p.arrays for p in pieces)))  # noqa: B905
    return mean, std


def decode(codec: Codec, z: np.ndarray, **options: Any) -> np.ndarray:
    """Latents [D, T] in memory -> audio [channels, T * hop]; options as for `decode_files`."""
    pieces = decode_files(codec, [(None, [z])], **options)
    return np.concatenate([piece.arrays[0] for piece in pieces], -1)


class _Batches:
    """Windows of many files through one function [B, C, F * unit_in] -> [B, C', F * unit_out]."""

    def __init__(
        self,
        apply: Callable[[Tensor], tuple[Tensor, ...]],
        unit_in: int,
        unit_out: int,
        context: tuple[int, int],
        chunk: int,
        batch: int,
    ) -> None:
        self._apply = apply
        self._unit_in, self._unit_out = unit_in, unit_out
        self._context = context
        self._chunk = chunk
        self._budget = batch * self._chunk
        self._waiting: dict[int, deque[_Window]] = {}

    def __call__(self, files: Iterable[tuple[Hashable, Blocks]]) -> Iterator[Piece]:
        for key, blocks in files:
            for window in _windows(key, blocks, self._unit_in, self._chunk, self._context):
                frames = window.input.shape[-1] // self._unit_in
                queue = self._waiting.setdefault(frames, deque())
                queue.append(window)
                if (len(queue) + 1) * frames > self._budget:
                    yield from self._run(frames)
                elif self._held() > POOL * self._budget:
                    yield from self._run(max(self._waiting, key=self._frames_waiting))
        while self._waiting:
            yield from self._run(max(self._waiting))

    def _run(self, frames: int) -> Iterator[Piece]:
        """One batch of all that waits with this length."""
        windows = self._waiting.pop(frames)
        batch = torch.from_numpy(np.stack([window.input for window in windows]))
        with torch.inference_mode():
            outputs = [output.float().cpu().numpy() for output in self._apply(batch)]
        for row, window in enumerate(windows):
            start = window.skip * self._unit_out
            stop = start + window.keep * self._unit_out
            arrays = tuple(output[row, :, start:stop] for output in outputs)
            first = window.first * self._unit_out
            yield Piece(window.key, first, arrays, window.last, window.size)

    def _frames_waiting(self, frames: int) -> int:
        return frames * len(self._waiting[frames])

    def _held(self) -> int:
        return sum(map(self._frames_waiting, self._waiting))


def _windows(
    key: Hashable, blocks: Blocks, unit: int, chunk: int, context: tuple[int, int]
) -> Iterator[_Window]:
    """One file as windows of `chunk` frames (fewer only if the file is shorter)."""
    left, right = context
    step = chunk - left - right
    buffer = _Buffer(unit)
    start = 0  # frame at which the next window begins
    delivered = 0

    def window(frames: int, stop: int, size: int, last: bool) -> _Window:
        piece = buffer.cut(start, frames)
        return _Window(key, piece, delivered - start, delivered, stop - delivered, last, size)

    for block in blocks:
        buffer.append(block)
        # One frame more than fits: the window that ends the file must be known as such.
        while buffer.columns > (start + chunk) * unit:
            stop = start + chunk - right
            yield window(chunk, stop, (stop - delivered) * unit, last=False)
            delivered = stop
            start += step
            # The last window of the file may begin up to a step earlier than the next one.
            buffer.forget_before(start - step)
    total = buffer.columns
    if total == 0:
        return
    frames = -(-total // unit)
    buffer.pad_to(frames)
    start = max(0, frames - chunk)
    yield window(min(frames, chunk), frames, total - delivered * unit, last=True)


class _Buffer:
    """The stretch of a file that windows can still ask for; columns are counted from its start."""

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self._blocks: list[np.ndarray] = []
        self._offset = 0
        self.columns = 0

    def append(self, block: np.ndarray) -> None:
        if block.shape[-1]:
            self._blocks.append(np.asarray(block, dtype=np.float32))
            self.columns += block.shape[-1]

    def pad_to(self, frames: int) -> None:
        missing = frames * self._unit - self.columns
        self.append(np.zeros((self._blocks[0].shape[0], missing), dtype=np.float32))

    def cut(self, first: int, frames: int) -> np.ndarray:
        """[C, frames * unit] from frame `first` on, as a copy."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks, axis=-1)]
        start = first * self._unit - self._offset
        return np.array(self._blocks[0][:, start : start + frames * self._unit])

    def forget_before(self, frame: int) -> None:
        start = frame * self._unit - self._offset
        if start > 0:
            kept = np.concatenate(self._blocks, axis=-1)[:, start:]
            self._blocks = [np.array(kept)]
            self._offset += start
