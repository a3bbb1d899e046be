"""Any amount of audio through a codec in constant memory, with the result of one whole pass.

A network that pads its layers with zeros treats the border of its input differently from the
middle: silence before the audio and no audio at all give different results. So windows are never
padded. The first window of a file begins where the file begins, the last one ends where it ends,
and windows in between overlap by the codec's context: whatever a window's border has changed is cut
off and taken from the neighbouring window. No crossfade is needed, since both windows agree on the
values that are kept, up to rounding.

Windows of exactly the same length are batched, from whichever files they are.

Shapes: B batch, C channels of either side, D latent dimensions, F frames, N samples, T frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.specs import Codec, frame_rate

Array = NDArray[np.float32]
Blocks = Iterable[Array]
"""One file as consecutive blocks [C, any length] of float32."""
K = TypeVar("K", bound=Hashable)
"""The caller's key for a file."""

POOL = 16
"""Batches' worth of short files that may wait for others of their length."""


@dataclass(frozen=True)
class Piece(Generic[K]):
    """A piece of one file's result. The pieces of a file arrive in order and without gaps."""

    key: K
    first: int
    """Index of its first column in the file's result."""
    arrays: tuple[Array, ...]
    """Each [C, n]: (mean, std) from `encode_files`, (audio,) from `decode_files`."""
    last: bool
    """Whether it completes the file."""
    size: int
    """Columns of input it accounts for; over a file these add up to the length of its input."""


@dataclass(frozen=True)
class _Window(Generic[K]):
    key: K
    input: Array
    """[C, frames * unit]."""
    skip: int
    """Frames at its start that an earlier window has delivered."""
    first: int
    """Index in the file of the first frame it delivers."""
    keep: int
    """Number of frames it delivers."""
    last: bool
    size: int


def files_together(
    codec: Codec, frames: int, *, chunk_seconds: float = 20.0, batch: int = 1
) -> int:
    """How many consecutive files of `frames` frames `encode_files` batches into one codec call."""
    chunk = _chunk(codec, chunk_seconds, codec.encode_context)
    return max(1, batch * chunk // frames) if frames <= chunk else 1


def _chunk(codec: Codec, seconds: float, context: tuple[int, int]) -> int:
    """Frames of a window. A window much shorter than its overlap would do most of the work twice:
    at four times the context, at most a quarter of it is thrown away."""
    return max(round(seconds * frame_rate(codec)), 4 * sum(context), 1)


def encode_files(
    codec: Codec,
    files: Iterable[tuple[K, Blocks]],
    *,
    chunk_seconds: float = 20.0,
    batch: int = 1,
) -> Iterator[Piece[K]]:
    """Encode files, each given as (key, blocks [channels, n] at the codec's sample rate).

    The result of a file is (mean, std), each [D, ceil(N / hop)]; its last frame is filled up with
    silence. One codec call gets at most `batch` * `chunk_seconds` of audio: `batch` windows of long
    files, or as many short files of equal length as fit. A file without samples yields nothing.
    """
    chunk = _chunk(codec, chunk_seconds, codec.encode_context)
    run = _Batches[K](codec.encode, codec.hop, 1, codec.encode_context, chunk, batch)
    yield from run(files)


def decode_files(
    codec: Codec,
    files: Iterable[tuple[K, Blocks]],
    *,
    chunk_seconds: float = 20.0,
    batch: int = 1,
) -> Iterator[Piece[K]]:
    """Decode files, each given as (key, blocks [D, t] of latents), to audio [channels, T * hop]."""
    chunk = _chunk(codec, chunk_seconds, codec.decode_context)

    def decode(z: Tensor) -> tuple[Tensor, ...]:
        return (codec.decode(z),)

    run = _Batches[K](decode, 1, codec.hop, codec.decode_context, chunk, batch)
    yield from run(files)


def encode(
    codec: Codec, audio: Array, *, chunk_seconds: float = 20.0, batch: int = 1
) -> tuple[Array, Array]:
    """Audio [channels, N] in memory -> mean and std, each [D, T]; see `encode_files`."""
    files = [("", [audio])]
    pieces = list(encode_files(codec, files, chunk_seconds=chunk_seconds, batch=batch))
    mean, std = (np.concatenate([piece.arrays[i] for piece in pieces], axis=-1) for i in (0, 1))
    return mean, std


def decode(codec: Codec, z: Array, *, chunk_seconds: float = 20.0, batch: int = 1) -> Array:
    """Latents [D, T] in memory -> audio [channels, T * hop]; see `decode_files`."""
    pieces = decode_files(codec, [("", [z])], chunk_seconds=chunk_seconds, batch=batch)
    return np.concatenate([piece.arrays[0] for piece in pieces], axis=-1)


class _Batches(Generic[K]):
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
        self._waiting: dict[int, deque[_Window[K]]] = {}

    def __call__(self, files: Iterable[tuple[K, Blocks]]) -> Iterator[Piece[K]]:
        for key, blocks in files:
            for window in _windows(key, blocks, self._unit_in, self._chunk, self._context):
                frames = window.input.shape[-1] // self._unit_in
                queue = self._waiting.setdefault(frames, deque())
                queue.append(window)
                # Run as soon as one more would exceed the budget. All windows of a long file are
                # `chunk` frames long, so they share a queue and stay in order.
                if (len(queue) + 1) * frames > self._budget:
                    yield from self._run(frames)
                elif self._held() > POOL * self._budget:
                    # Files of many different lengths: run the length that frees the most memory.
                    yield from self._run(max(self._waiting, key=self._frames_waiting))
        while self._waiting:
            yield from self._run(max(self._waiting))

    def _run(self, frames: int) -> Iterator[Piece[K]]:
        """Run everything of this length that waits, as one batch."""
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
    key: K, blocks: Blocks, unit: int, chunk: int, context: tuple[int, int]
) -> Iterator[_Window[K]]:
    """One file as windows of `chunk` frames (fewer only if the file is shorter).

    A window delivers all its frames but `left` at its start and `right` at its end, where they
    depend on audio outside the window; at a file's own border there is no such audio, and the first
    and last windows deliver up to it.
    """
    left, right = context
    step = chunk - left - right
    buffer = _Buffer(unit)
    start = 0  # frame at which the next window begins
    delivered = 0  # frames that windows have delivered so far

    def window(frames: int, stop: int, size: int, last: bool) -> _Window[K]:
        piece = buffer.cut(start, frames)
        return _Window(key, piece, delivered - start, delivered, stop - delivered, last, size)

    for block in blocks:
        buffer.append(block)
        # Wait for more than a window holds: the file's last window must be known as such, because
        # it delivers up to its end.
        while buffer.columns > (start + chunk) * unit:
            stop = start + chunk - right
            yield window(chunk, stop, (stop - delivered) * unit, last=False)
            delivered = stop
            start += step
            # The last window is as long as the others and ends with the file, so it may begin
            # before `start`, though not before the window just cut.
            buffer.forget_before(start - step)
    total = buffer.columns
    if total == 0:
        return
    frames = -(-total // unit)
    buffer.pad_to(frames)
    # Moved back rather than cut short, so that it can be batched with the others.
    start = max(0, frames - chunk)
    yield window(min(frames, chunk), frames, total - delivered * unit, last=True)


class _Buffer:
    """The part of a file that later windows may need; columns count from the file's start."""

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self._blocks: list[Array] = []
        self._offset = 0
        """Columns that have been forgotten."""
        self.columns = 0
        """Columns that have been appended, forgotten ones included."""

    def append(self, block: Array) -> None:
        if block.shape[-1]:
            self._blocks.append(np.asarray(block, dtype=np.float32))
            self.columns += block.shape[-1]

    def pad_to(self, frames: int) -> None:
        """Append silence up to a whole number of frames."""
        missing = frames * self._unit - self.columns
        self.append(np.zeros((self._blocks[0].shape[0], missing), dtype=np.float32))

    def cut(self, first: int, frames: int) -> Array:
        """[C, frames * unit] from frame `first` on, as a copy: the buffer moves on beneath it."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks, axis=-1)]
        start = first * self._unit - self._offset
        return np.array(self._blocks[0][:, start : start + frames * self._unit])

    def forget_before(self, frame: int) -> None:
        """Free the memory of everything before frame `frame`."""
        start = frame * self._unit - self._offset
        if start > 0:
            kept = np.concatenate(self._blocks, axis=-1)[:, start:]
            # A copy: a view would keep all that is forgotten in memory.
            self._blocks = [np.array(kept)]
            self._offset += start
