"""Blocks of sound -> records of one length, and how loud a record is.

Shapes: N samples per block, S samples per record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

_WINDOW_SECONDS = 0.1


def records(blocks: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks [channels, N] -> (record [channels, S], samples of sound in it), nothing lost.

    The last record is filled up with zeros; all others are full.
    """
    held: np.ndarray | None = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        whole = held.shape[1] // size * size
        for start in range(0, whole, size):
            yield held[:, start : start + size], size
        held = held[:, whole:]
    if held is not None and held.shape[1]:
        rest = held.shape[1]
        yield np.pad(held, ((0, 0), (0, size - rest))), rest


def loudest_db(audio: np.ndarray, sample_rate: int) -> float:
    """dBFS RMS of the loudest tenth of a second of [channels, N]; -inf for digital silence.

    A short sound in a long silence is as loud as it is, which the RMS of the whole would hide.
    """
    power = np.square(audio, dtype=np.float64).mean(axis=0)
    window = max(1, round(_WINDOW_SECONDS * sample_rate))
    # The last window may be shorter; it is measured over what it has.
    starts = np.arange(0, power.size, window)
    lengths = np.diff(np.append(starts, power.size))
    loudest = float((np.add.reduceat(power, starts) / lengths).max())
    return 10 * np.log10(loudest) if loudest > 0 else -np.inf
