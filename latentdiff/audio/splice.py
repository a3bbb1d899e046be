"""Joins stretches of a stream without clicks.

Shapes: n samples of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


def splice(blocks: Iterable[Samples], spans: Sequence[range], fade: int) -> Iterator[Samples]:
    """The spans of a stream of blocks [channels, n], in order and joined into one stream.

    Where two spans meet, what follows the first one in the stream fades out over the beginning of
    the second: linearly, over `fade` samples or as many as there are in between. Without it, audio
    that ends mid-wave would jump to audio that begins mid-wave.
    """
    gaps = [range(a.stop, min(b.start, a.stop + fade)) for a, b in pairwise(spans)]
    tails: list[Samples | None] = [None for _ in spans]
    position = 0
    for block in blocks:
        for i, span in enumerate(spans):
            part = _overlap(block, position, span)
            if part.size:
                yield _faded(part, tails[i], max(position - span.start, 0))
            if i < len(gaps):
                tail, more = tails[i + 1], _overlap(block, position, gaps[i])
                tails[i + 1] = more if tail is None else np.concatenate([tail, more], axis=1)
        position += block.shape[1]


def _overlap(block: Samples, position: int, span: range) -> Samples:
    """The part of a block in a span of the stream; `position` is that of its first sample."""
    low = max(span.start - position, 0)
    return block[:, low : max(low, span.stop - position)]


def _faded(part: Samples, tail: Samples | None, offset: int) -> Samples:
    """`part` of a span, from its sample `offset` on, mixed with the `tail` of the span before."""
    length = 0 if tail is None else tail.shape[1]
    count = min(part.shape[1], length - offset)
    if tail is None or count <= 0:
        return part
    weight = ((np.arange(offset, offset + count) + 1) / (length + 1)).astype(np.float32)
    mixed = part.copy()
    mixed[:, :count] = weight * part[:, :count] + (1 - weight) * tail[:, offset : offset + count]
    return mixed
