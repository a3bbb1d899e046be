"""Things that are struck, shaken or dropped: one hit at a time.

Shapes: n samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentdiff.synth.noise import band, shaped, tilted
from latentdiff.synth.partials import Samples, envelope, inharmonic

Hit = Callable[[], Samples]
"""A hit [n]; each sounds a little different."""


def drum(rng: np.random.Generator, rate: int) -> Hit:
    """Kick, tom, membrane: a falling tone with the overtones of a round skin."""
    pitch, fall = 10 ** rng.uniform(1.6, 2.6), rng.uniform(0, 3)
    drop, decay = rng.uniform(0.01, 0.06), rng.uniform(5, 25)
    gains = rng.uniform(0, 0.4, len(_SKIN))
    gains[0] = 1

    def hit() -> Samples:
        n = round(0.5 * rate)
        time = (np.arange(n) / rate).astype(np.float32)
        glide = time + np.float32(fall * drop) * (1 - np.exp(-time / np.float32(drop)))
        body = np.sin(np.float32(2 * np.pi * pitch) * glide) * np.exp(-np.float32(decay) * time)
        skin = inharmonic(pitch * _SKIN, gains, decay * _SKIN, n, rate)
        stick = (
            shaped(rng, n, rate, tilted(3)) * np.exp(-time * 300) * np.float32(rng.uniform(0, 0.5))
        )
        sound: Samples = (body + skin + stick) * envelope(n, rate, 0.001, 0.05)
        return sound

    return hit


_SKIN = np.array([1.0, 1.59, 2.14, 2.30, 2.65, 2.92, 3.16, 3.50])
"""Ratios of the modes of an ideal round membrane."""


def snare(rng: np.random.Generator, rate: int) -> Hit:
    """Snare, clap, brush: a band of noise that decays, with some tone."""
    centre, width = 10 ** rng.uniform(2.8, 3.6), rng.uniform(1, 4)
    decay, tone, pitch = rng.uniform(8, 40), rng.uniform(0, 1), rng.uniform(140, 260)

    def hit() -> Samples:
        n = round(0.4 * rate)
        time = (np.arange(n) / rate).astype(np.float32)
        rattle = shaped(rng, n, rate, band(centre, width)) * np.exp(-np.float32(decay) * time)
        ring = np.sin(np.float32(2 * np.pi * pitch) * time) * np.exp(-time * 25)
        sound: Samples = (rattle + np.float32(tone) * ring) * envelope(n, rate, 0.001, 0.05)
        return sound

    return hit


def cymbal(rng: np.random.Generator, rate: int) -> Hit:
    """Hi-hat to gong: high noise and many inharmonic partials."""
    decay, low = 10 ** rng.uniform(0.3, 1.9), 10 ** rng.uniform(2.5, 3.7)
    ratios = np.sort(rng.uniform(1, 12, 20))
    gains = rng.uniform(0, 0.3, 20) * rng.uniform(0, 1)

    def hit() -> Samples:
        n = round(min(1.2, 5 / decay) * rate)
        time = (np.arange(n) / rate).astype(np.float32)
        hiss = shaped(rng, n, rate, lambda hz: 1 / (1 + (low / np.maximum(hz, 1)) ** 4))
        hiss *= np.exp(-np.float32(decay) * time)
        metal = inharmonic(low / 3 * ratios, gains, np.full(20, decay), n, rate)
        return (hiss + metal) * envelope(n, rate, 0.001, 0.05)

    return hit


def click(rng: np.random.Generator, rate: int) -> Hit:
    """Clicks, knocks, drops: a few milliseconds of one or two resonances."""
    pitches, decays = 10 ** rng.uniform(2.3, 3.8, 3), 10 ** rng.uniform(1.3, 2.5, 3)

    def hit() -> Samples:
        n = round(0.15 * rate)
        sound = inharmonic(pitches * rng.uniform(0.97, 1.03), np.ones(3), decays, n, rate)
        return sound * envelope(n, rate, 0.0005, 0.03)

    return hit


KITS: tuple[Callable[[np.random.Generator, int], Hit], ...] = (drum, drum, snare, cymbal, click)
"""What a layer of percussion is played on; twice named, twice as often."""
