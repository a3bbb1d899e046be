"""Noise with a spectrum: hiss, breath, rain, and the walls of a room.

Shapes: n samples, F frequencies.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentdiff.synth.partials import Samples

Response = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Gain of each frequency: Hz [F] -> [F]."""


def shaped(rng: np.random.Generator, n: int, rate: int, response: Response) -> Samples:
    """Noise [n] of RMS 1 with the spectrum `response`."""
    size = 1 << max(8, (n - 1).bit_length())
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum *= response(np.fft.rfftfreq(size, 1 / rate))
    noise = np.fft.irfft(spectrum, size)[:n]
    return (noise / max(1e-9, float(np.sqrt(np.mean(noise**2))))).astype(np.float32)


def tilted(decibels: float) -> Response:
    """A straight spectrum of `decibels` per octave, flat below 50 Hz."""
    power = decibels / (20 * np.log10(2))
    return lambda hz: np.maximum(hz, 50.0) ** power


def band(centre: float, octaves: float) -> Response:
    """A bell around `centre` in Hz, `octaves` wide at half of its height."""
    return lambda hz: np.exp(-4 * np.log(2) * (np.log2(np.maximum(hz, 1) / centre) / octaves) ** 2)


def resonances(centres: NDArray[np.float64], width: float) -> Response:
    """Peaks of equal width in Hz around `centres` [F], as those of a throat or a body."""

    def response(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        peaks = [1 / (1 + ((hz - centre) / width) ** 2) for centre in centres]
        return np.asarray(np.sum(peaks, axis=0)) + 0.02

    return response


def reverberate(
    rng: np.random.Generator, dry: Samples, rate: int, seconds: float, wet: float
) -> Samples:
    """`dry` [n] in a room [n]. `seconds`: decay by 60 dB; `wet`: share 0..1 of the reflections."""
    from scipy.signal import fftconvolve

    n = max(2, round(seconds * rate))
    decay = np.exp(-6.9 * np.arange(n) / n)
    walls = decay * shaped(rng, n, rate, tilted(-rng.uniform(1, 5)))
    walls[: round(rng.uniform(0.002, 0.03) * rate)] = 0
    walls /= max(1e-9, float(np.sqrt(np.sum(walls**2))))
    reflected = fftconvolve(dry, walls)[: len(dry)]
    mixed: Samples = np.asarray((1 - wet) * dry + wet * reflected, np.float32)
    return mixed
