"""Cuts blocks of audio into records of equal length, and measures how loud a record is.

Shapes: N samples per block, S samples per record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

_WINDOW_SECONDS = 0.1


def records(
    blocks: Iterable[NDArray[np.float32]], size: int
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Blocks [channels, N] -> (record [channels, S], number of its samples that are audio).

    All records are full but the last one, which is padded with zeros.
    """
    held: NDArray[np.float32] | None = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        whole = held.shape[1] // size * size
        for start in range(0, whole, size):
            yield held[:, start : start + size], size
        held = held[:, whole:]
    if held is not None and held.shape[1]:
        rest = held.shape[1]
        yield np.pad(held, ((0, 0), (0, size - rest))), rest


def loudest_db(audio: NDArray[np.float32], sample_rate: int) -> float:
    """RMS in dBFS of the loudest tenth of a second of [channels, N]; -inf for digital silence.

    Unlike the RMS of the whole, it does not call a short sound in a long silence quiet.
    """
    power = np.square(audio, dtype=np.float64).mean(axis=0)
    window = max(1, round(_WINDOW_SECONDS * sample_rate))
    # The last window may be shorter: divide by its own length, or it would look quieter.
    starts = np.arange(0, power.size, window)
    lengths = np.diff(np.append(starts, power.size))
    loudest = float((np.add.reduceat(power, starts) / lengths).max())
    return 10 * math.log10(loudest) if loudest > 0 else -math.inf
