"""Condition features resampled along time to the rate of the latents.

Shapes: K condition features, M feature frames, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


def resample_blocks(blocks: Iterable[Floats], frames: int, ratio: float) -> Iterator[Floats]:
    """`resample_time` of features that arrive in blocks [K, m], as blocks of `frames` in total.

    Memory does not grow with the length. Raises ValueError if there are no features.
    """
    held: Floats | None = None
    first = done = 0  # index of the first feature held; frames yielded
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        # A frame depends on less than two features past its end.
        ready = min(frames, int((first + held.shape[1] - 2) / ratio))
        if ready > done:
            yield resample_time(held, ready - done, ratio, done * ratio - first)
            done = ready
            start = max(0, int(done * ratio) - 1)
            held, first = held[:, max(0, start - first) :], max(first, start)
    if held is None:
        raise ValueError("there are no feature frames to resample")
    if done < frames:
        yield resample_time(held, frames - done, ratio, done * ratio - first)


def resample_time(
    features: Floats, frames: int, ratio: float | None = None, offset: float = 0.0
) -> Floats:
    """Features [K, M] => [K, frames], along time.

    Feature k is centred on time k, as in `mel_of_blocks`; target frame j covers the time from
    offset + j * ratio to offset + (j + 1) * ratio. `ratio`: feature frames per target frame; None:
    the targets fill the time from the first feature to the last. Above 1, the features in a frame
    are averaged; below, they are interpolated. Past the last feature its value is held. Raises
    ValueError if there are no features.
    """
    count = features.shape[1]
    if count == 0:
        raise ValueError("there are no feature frames to resample")
    ratio = (count - 1) / frames if ratio is None else ratio
    if ratio < 1:
        centres = offset + (np.arange(frames) + 0.5) * ratio
        columns = [np.interp(centres, np.arange(count), band) for band in features]
        return np.stack(columns).astype(np.float32)
    # Integral up to each edge of the step function that holds feature k from k - 0.5 to k + 0.5.
    # The fraction exceeds 1 only in the last step, which holds the last value. float64, because the
    # integral grows with the length and its differences do not.
    edges = offset + np.arange(frames + 1) * ratio + 0.5
    step = np.minimum(edges.astype(int), count - 1)
    below = np.cumsum(features, axis=1, dtype=np.float64) - features
    integral = below[:, step] + (edges - step) * features[:, step]
    return (np.diff(integral, axis=1) / ratio).astype(np.float32)
