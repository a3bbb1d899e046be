"""Resampling of a stream, equal to resampling it in one piece.

Shapes: N samples before, M samples after.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

# Kaiser window of librosa's "kaiser_best": flat to 0.9 of the lower Nyquist, -140 dB beyond.
_ZEROS = 64
_ROLLOFF = 0.9475937167399596
_BETA = 14.769656459379492
_LARGEST_KERNEL = 1 << 24
"""Filter coefficients; pairs of rates that need more have next to no common divisor."""


def too_odd(rate: int, new_rate: int) -> bool:
    """Whether the ratio of two rates (Hz) needs a filter bank too large to hold, as 44101:44100."""
    return _kernel_size(rate, new_rate) > _LARGEST_KERNEL


def resample(blocks: Iterator[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Blocks [channels, N] at `rate` Hz -> blocks [channels, M] at `new_rate` Hz.

    Windowed-sinc interpolation by torchaudio. A stream of N samples becomes ceil(N * new / old),
    whatever its blocks: each one is filtered together with the kernel's reach on both sides.
    """
    if rate == new_rate:
        yield from blocks
        return
    up, down = _reduced(rate, new_rate)
    # Pieces begin at multiples of `down`, where the phase of the interpolation is 0 again.
    reach = math.ceil(_width(up, down) / down) * down
    convert = _converter(up, down)
    held: np.ndarray | None = None
    done = 0  # samples at the head of `held` whose output has been handed on
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


def _converter(up: int, down: int) -> Any:
    """A function [channels, N] -> [channels, ceil(N * up / down)] of arrays of float32."""
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

    def convert(audio: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return filters(torch.from_numpy(np.ascontiguousarray(audio))).numpy()

    return convert


def _reduced(rate: int, new_rate: int) -> tuple[int, int]:
    divisor = math.gcd(rate, new_rate)
    return new_rate // divisor, rate // divisor


def _width(up: int, down: int) -> int:
    """Input samples that the kernel reaches to each side."""
    return math.ceil(_ZEROS * down / (min(up, down) * _ROLLOFF))


def _kernel_size(rate: int, new_rate: int) -> int:
    up, down = _reduced(rate, new_rate)
    return up * (down + 2 * _width(up, down))
