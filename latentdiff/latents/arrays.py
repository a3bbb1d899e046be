"""`.npy` files of a store: read without being loaded, written piece by piece.

Shapes: T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from latentdiff import runs
from latentdiff.errors import UserError


def read_array(path: Path) -> np.ndarray:
    """A `.npy` file as a memory map [rows, T] of floats; of [1, rows, T] the 1 is dropped.

    Raises UserError if it is missing, damaged, or something else.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read",
            why="it is missing, damaged or not a .npy array: " + str(error).splitlines()[0],
            do_this="make it again, or remove it from the folder.",
        ) from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind != "f":
        raise UserError(
            f"{path} holds no latents",
            why=f"its shape is {list(array.shape)} and its type {array.dtype}; latents are "
            "[dimensions, frames] or [1, dimensions, frames] of floats",
        )
    return array


class ArrayWriter:
    """Writes float32 [rows, T] piece by piece; T is not known in advance. See `array_writer`."""

    def __init__(self, file: BinaryIO) -> None:
        self.frames = 0
        self._rows = 0
        self._file = file

    def append(self, piece: np.ndarray) -> None:
        """The next frames [rows, t]."""
        if self.frames == 0:
            self._rows = piece.shape[0]
            self._file.write(_header(self._rows, 0))
        self._file.write(np.ascontiguousarray(piece.T, dtype="<f4").tobytes())
        self.frames += piece.shape[1]

    def finish(self) -> None:
        """Rewrite the header, now that the length is known."""
        self._file.seek(0)
        self._file.write(_header(self._rows, self.frames))


@contextmanager
def array_writer(path: Path) -> Iterator[ArrayWriter]:
    """A `.npy` file that appears complete when the block ends, or not at all.

    Raises UserError if the disk is full or not writable.
    """
    runs.make_directory(path.parent)
    with runs.atomic(path) as partial, open(partial, "wb") as file:
        writer = ArrayWriter(file)
        yield writer
        writer.finish()


def _header(rows: int, frames: int) -> bytes:
    """An npy header (format 1.0), always of 128 bytes, so that it can be written over.

    128 = 10 (magic, version and length) + 117 of padded text + a line feed.
    """
    text = f"{{'descr': '<f4', 'fortran_order': True, 'shape': ({rows}, {frames}), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.encode().ljust(117) + b"\n"
