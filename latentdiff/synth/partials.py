"""Sums of sine waves that follow a pitch: the core of all pitched sources.

Shapes: n samples, H partials, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Curve = NDArray[np.float64]
"""Values [P], spread evenly over a note."""

NYQUIST_SHARE = 0.45
"""Partials above this share of the sample rate are left out, so that nothing aliases."""
MOST_PARTIALS = 48
INAUDIBLE = 1e-4
"""Partials weaker than this share of the strongest one are left out: 80 dB below it."""
POINTS_PER_SECOND = 100
"""Resolution of amplitudes and pitches along a note."""

Spectrum = Callable[[Curve, Curve], Curve]
"""Amplitude of a partial: (its frequency in Hz [P], its number [P]) -> [P]."""


def points(seconds: float) -> int:
    """Number of points of a note's curves."""
    return max(2, round(seconds * POINTS_PER_SECOND))


def stretch(curve: Curve, n: int) -> Samples:
    """A curve [P] interpolated to n samples."""
    block = -(-n // (len(curve) - 1))
    ramp = np.arange(block, dtype=np.float32) / np.float32(block)
    knots = curve.astype(np.float32)
    # Several times faster than np.interp, and most of the cost of a note.
    lines: Samples = knots[:-1, None] + np.diff(knots)[:, None] * ramp
    return lines.reshape(-1)[:n]


def harmonic(
    pitch: Curve, rate: int, seconds: float, spectrum: Spectrum, *, odd: bool = False
) -> Samples:
    """A tone [n] of harmonics of `pitch` (Hz, [P]).

    `spectrum` gives their amplitudes along the note. `odd`: only the odd ones.
    """
    n = max(1, round(seconds * rate))
    phase = np.cumsum(stretch(pitch, n), dtype=np.float64) / rate
    turn = np.exp(2j * np.pi * (phase % 1)).astype(np.complex64)
    # A product for each harmonic is several times faster than its sines.
    step = turn * turn if odd else turn
    tone, loudest = np.zeros(n, np.float32), 0.0
    for h in range(1, MOST_PARTIALS, 2 if odd else 1):
        if h * pitch.max() >= NYQUIST_SHARE * rate:
            break
        amplitude = spectrum(h * pitch, np.full_like(pitch, h))
        loudest = max(loudest, float(amplitude.max()))
        if amplitude.max() > INAUDIBLE * loudest:
            tone += stretch(amplitude, n) * turn.imag
        turn = turn * step
    return tone


def inharmonic(frequencies: Curve, amplitudes: Curve, decays: Curve, n: int, rate: int) -> Samples:
    """Decaying partials [n]: bells, blocks, membranes.

    `frequencies` in Hz, `amplitudes`, and `decays` per second: [H] each.
    """
    time = (np.arange(n) / rate).astype(np.float32)
    tone = np.zeros(n, np.float32)
    for frequency, amplitude, decay in zip(frequencies, amplitudes, decays, strict=True):
        if frequency < NYQUIST_SHARE * rate:
            angle = np.float32(2 * np.pi * frequency) * time
            tone += np.float32(amplitude) * np.exp(-np.float32(decay) * time) * np.sin(angle)
    return tone


def fade(n: int, rate: int, attack: float, release: float) -> NDArray[np.float64]:
    """An envelope [n] with half-cosine attack and release, both in seconds."""
    shape = np.ones(n)
    for seconds, part in ((attack, slice(None)), (release, slice(None, None, -1))):
        size = min(n // 2, max(1, int(seconds * rate)))
        shape[part][:size] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(size) / size)
    return shape


def envelope(n: int, rate: int, attack: float, release: float) -> Samples:
    """`fade` in single precision."""
    return fade(n, rate, attack, release).astype(np.float32)
