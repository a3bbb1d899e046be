"""A look-ahead limiter: peaks beyond full scale are turned down around them, not cut off.

Shapes: N samples; blocks are [channels, n].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOOKAHEAD_SECONDS = 0.02
"""The gain falls for this long before a peak, and rises for as long after it. Shorter, low notes
would be distorted."""

Block = NDArray[np.floating[Any]]


class Limiter:
    """Keeps a stream of blocks within -1..1, all channels by the same gain.

    The gain is the moving average, over LOOKAHEAD_SECONDS, of the least gain that is needed within
    as long from each moment on; so it is never more than is needed, and never jumps (Zoelzer 2011,
    DAFX, section 4.2.2, gives the principle). What needs no limiting passes bit for bit.
    """

    def __init__(self, sample_rate: int) -> None:
        self.reduction_db = 0.0
        """Largest reduction so far, in dB."""
        self._reach = max(1, round(LOOKAHEAD_SECONDS * sample_rate))

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks, limited; a block comes out LOOKAHEAD_SECONDS after it went in."""
        waiting: Block | None = None
        # Gains needed before the first waiting sample.
        before = np.ones(self._reach - 1)
        for block in blocks:
            waiting = block if waiting is None else np.concatenate([waiting, block], axis=1)
            ready = waiting.shape[1] - (self._reach - 1)
            if ready > 0:
                needed = np.concatenate([before, _needed(waiting)])
                yield self._limited(waiting[:, :ready], needed)
                before = needed[ready : ready + self._reach - 1]
                waiting = waiting[:, ready:]
        if waiting is not None:
            rest = np.ones(self._reach - 1)
            yield self._limited(waiting, np.concatenate([before, _needed(waiting), rest]))

    def _limited(self, block: Block, needed: NDArray[np.float64]) -> Block:
        """`needed` [reach - 1 + n + reach - 1], around the n samples of the block."""
        if (needed >= 1).all():
            return block
        # Here, as most audio needs no limiting, and importing scipy takes a while.
        from scipy.ndimage import minimum_filter1d

        reach, count = self._reach, block.shape[1]
        needed = needed[: count + 2 * (reach - 1)]
        least = minimum_filter1d(needed, reach, mode="nearest")[reach // 2 :][: count + reach - 1]
        sums = np.concatenate([[0.0], least.cumsum()])
        gain = (sums[reach:] - sums[:-reach]) / reach
        self.reduction_db = max(self.reduction_db, -20 * math.log10(float(gain.min())))
        # Rounding may leave a peak a hair above.
        limited: Block = np.clip(block * gain.astype(block.dtype), -1, 1)
        return limited


def _needed(block: Block) -> NDArray[np.float64]:
    """The gain [n] that brings each sample to full scale, at most 1."""
    peak: NDArray[np.float64] = np.abs(block).max(axis=0).astype(np.float64)
    return 1 / np.maximum(1.0, peak)
