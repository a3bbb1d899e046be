"""Resampling of a stream, with the same result as resampling it in one piece.

Shapes: N samples before, M samples after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

# The Kaiser window of librosa's "kaiser_best": flat to 0.9 of the lower Nyquist frequency, -140 dB
# beyond.
_ZEROS = 64
_ROLLOFF = 0.9475937167399596
_BETA = 14.769656459379492
_LARGEST_KERNEL = 1 << 24
"""Filter coefficients. Only pairs of rates with hardly any common divisor need more."""


def too_odd(rate: int, new_rate: int) -> bool:
    """Whether the ratio of two rates (Hz) needs too large a filter bank, as 44101:44100 does."""
    return _kernel_size(rate, new_rate) > _LARGEST_KERNEL


def resample(
    blocks: Iterator[NDArray[np.float32]], rate: int, new_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Blocks [channels, N] at `rate` Hz -> blocks [channels, M] at `new_rate` Hz.

    Windowed-sinc interpolation by torchaudio. N samples become ceil(N * new_rate / rate), however
    they are divided into blocks.
    """
    if rate == new_rate:
        yield from blocks
        return
    up, down = _reduced(rate, new_rate)
    # Each piece is filtered with `reach` more samples on either side, so that every output sample
    # sees all of the kernel. Pieces begin at multiples of `down`: there the interpolation's phase
    # is 0 again, as `convert` assumes of the first sample it is given.
    reach = math.ceil(_width(up, down) / down) * down
    convert = _converter(up, down)
    held: NDArray[np.float32] | None = None
    done = 0  # samples at the head of `held` whose output has been yielded
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        ready = (held.shape[1] - reach) // down * down
        if ready <= done:
            continue
        yield convert(held[:, : ready + reach])[:, done // down * up : ready // down * up]
        start = max(0, ready - reach)
        held, done = held[:, start:], ready - start
    if held is not None and held.shape[1] > done:
        yield convert(held)[:, done // down * up :]


def _converter(up: int, down: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function [channels, N] -> [channels, ceil(N * up / down)], both float32."""
    import torch

    from latentdiff.torchaudio_guard import import_torchaudio

    filters = import_torchaudio().transforms.Resample(
        down,
        up,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=_ZEROS,
        rolloff=_ROLLOFF,
        beta=_BETA,
    )

    def convert(audio: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            resampled: torch.Tensor = filters(torch.from_numpy(np.ascontiguousarray(audio)))
        return resampled.numpy()

    return convert


def _reduced(rate: int, new_rate: int) -> tuple[int, int]:
    divisor = math.gcd(rate, new_rate)
    return new_rate // divisor, rate // divisor


def _width(up: int, down: int) -> int:
    """Half the kernel's length, in input samples."""
    return math.ceil(_ZEROS * down / (min(up, down) * _ROLLOFF))


def _kernel_size(rate: int, new_rate: int) -> int:
    up, down = _reduced(rate, new_rate)
    return up * (down + 2 * _width(up, down))
