"""Instruments that play one note at a time: strings, winds, bells, voices, synthesisers.

An instrument is drawn once, with its own colour, and then asked for notes.

Shapes: n samples, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentdiff.synth.noise import band, resonances, shaped
from latentdiff.synth.partials import (
    Curve,
    Samples,
    envelope,
    harmonic,
    inharmonic,
    points,
    stretch,
)

Instrument = Callable[[float, float], Samples]
"""(pitch in Hz, seconds) -> a note [n]; two equal notes may differ."""
Maker = Callable[[np.random.Generator, int], Instrument]
"""(generator, sample rate in Hz) -> an instrument."""


def plucked(rng: np.random.Generator, rate: int) -> Instrument:
    """Guitar, harp, piano: harmonics that the plucking point weakens, high ones decaying faster."""
    place, slope = rng.uniform(0.05, 0.45), rng.uniform(0.3, 1.5)
    damping, brightness = rng.uniform(0.5, 5.0), rng.uniform(0.0, 0.6)
    stiffness = 10 ** rng.uniform(-5.5, -3.3)

    def play(pitch: float, seconds: float) -> Samples:
        h = np.arange(1, 41)
        n = round(max(0.25, seconds) * rate)
        tone = inharmonic(
            pitch * h * np.sqrt(1 + stiffness * h**2),
            np.abs(np.sin(np.pi * h * place)) * h**-slope,
            damping * (1 + brightness * h) * (pitch / 220) ** 0.5,
            n,
            rate,
        )
        return tone * envelope(n, rate, 0.002, 0.06)

    return play


def bowed(rng: np.random.Generator, rate: int) -> Instrument:
    """Violin to double bass: a sawtooth through the resonances of a body, vibrato, bow noise."""
    body = resonances(np.sort(rng.uniform(200, 4500, 7)), rng.uniform(60, 250))
    vibrato, speed = rng.uniform(0, 0.008), rng.uniform(4.5, 6.5)
    attack, hiss = rng.uniform(0.03, 0.25), 10 ** rng.uniform(-2.5, -1.3)

    def play(pitch: float, seconds: float) -> Samples:
        track = _vibrato(pitch, seconds, vibrato, speed, rng.uniform(0, 6))
        tone = harmonic(track, rate, seconds, lambda hz, h: body(hz) / h)
        noise = shaped(rng, len(tone), rate, body)
        return (tone + hiss * noise) * envelope(len(tone), rate, attack, 0.12)

    return play


def wind(rng: np.random.Generator, rate: int) -> Instrument:
    """Flute, clarinet, brass: few or many harmonics, brighter where louder, with breath."""
    odd, slope = rng.random() < 0.3, rng.uniform(0.8, 2.5)
    brass, breath = rng.uniform(0, 1.5), 10 ** rng.uniform(-2.5, -0.8)
    vibrato, speed, attack = rng.uniform(0, 0.01), rng.uniform(4, 6), rng.uniform(0.01, 0.12)

    def play(pitch: float, seconds: float) -> Samples:
        track = _vibrato(pitch, seconds, vibrato, speed, rng.uniform(0, 6))
        swell = np.interp(np.linspace(0, 1, len(track)), (0, 0.15, 0.7, 1), (0.3, 1, 0.8, 0.4))
        tone = harmonic(
            track, rate, seconds, lambda hz, h: swell * h ** -(slope + brass * (1 - swell)), odd=odd
        )
        noise = shaped(rng, len(tone), rate, band(2 * pitch, 2.0))
        return (tone + breath * noise) * envelope(len(tone), rate, attack, 0.08)

    return play


def bell(rng: np.random.Generator, rate: int) -> Instrument:
    """Bells, bars, bowls and blocks: partials in no simple ratio."""
    ratios = np.sort(np.r_[1.0, rng.uniform(1.2, 12, rng.integers(3, 14))])
    gains = rng.uniform(0.1, 1, len(ratios)) * ratios ** -rng.uniform(0.2, 1.5)
    decays = 10 ** rng.uniform(-0.5, 1.4) * ratios ** rng.uniform(0, 1)

    def play(pitch: float, seconds: float) -> Samples:
        n = round(max(0.2, seconds) * rate)
        return inharmonic(pitch * ratios, gains, decays, n, rate) * envelope(n, rate, 0.001, 0.08)

    return play


def fm(rng: np.random.Generator, rate: int) -> Instrument:
    """Frequency modulation by one operator, whose depth decays along the note."""
    ratio = rng.choice([0.5, 1, 1.41, 2, 3, 3.5, 5, 7])
    depth, decay = rng.uniform(0.3, 5), rng.uniform(0.3, 8)
    fades, attack = rng.uniform(0, 5), 10 ** rng.uniform(-3, -1)

    def play(pitch: float, seconds: float) -> Samples:
        n = round(seconds * rate)
        time = (np.arange(n) / rate).astype(np.float32)
        # Carson's rule keeps the widest sideband below the Nyquist frequency.
        most = max(0.0, (0.45 * rate - pitch) / (ratio * pitch) - 1)
        index = np.float32(min(depth, most)) * np.exp(-np.float32(decay) * time)
        modulator = index * np.sin(np.float32(2 * np.pi * ratio * pitch) * time)
        tone: Samples = np.sin(np.float32(2 * np.pi * pitch) * time + modulator)
        tone *= np.exp(-np.float32(fades) * time)
        return tone * envelope(n, rate, attack, 0.05)

    return play


def subtractive(rng: np.random.Generator, rate: int) -> Instrument:
    """Sawtooth, square or detuned pair through a low-pass that opens or closes."""
    odd, detune = rng.random() < 0.4, rng.choice([0, 0, 3e-3, 8e-3])
    first, last = 10 ** rng.uniform(2.3, 3.9, 2)
    order, attack = rng.uniform(1, 4), 10 ** rng.uniform(-3, -0.6)

    def play(pitch: float, seconds: float) -> Samples:
        track = np.full(points(seconds), pitch)
        cutoff = np.geomspace(first, last, len(track))
        voices = [
            harmonic(
                track * (1 + cents),
                rate,
                seconds,
                lambda hz, h: 1 / (h * (1 + (hz / cutoff) ** order)),
                odd=odd,
            )
            for cents in ({-detune, detune} if detune else {0.0})
        ]
        tone: Samples = np.mean(voices, axis=0)
        return tone * envelope(len(tone), rate, attack, 0.06)

    return play


def voice(rng: np.random.Generator, rate: int) -> Instrument:
    """A throat that sings or speaks syllables: glides between two vowels, some consonants."""
    size, tilt = rng.uniform(0.85, 1.25), rng.uniform(0.8, 1.6)
    vibrato, glide = rng.uniform(0, 0.012), rng.uniform(0, 0.15)
    consonants = rng.uniform(0, 0.9)

    def play(pitch: float, seconds: float) -> Samples:
        track = _vibrato(pitch, seconds, vibrato, 5.5, rng.uniform(0, 6))
        track = track * (1 + glide * rng.standard_normal() * np.linspace(-0.5, 0.5, len(track)))
        first, last = size * _VOWELS[rng.integers(len(_VOWELS), size=2)]
        mix = np.linspace(0, 1, len(track))[:, None]
        formants = first + (last - first) * mix

        def throat(hz: Curve, h: Curve) -> Curve:
            peaks = 1 / (1 + ((hz[:, None] - formants) / _FORMANT_WIDTHS) ** 2)
            gains: Curve = peaks @ _FORMANT_GAINS * h**-tilt
            return gains

        tone = harmonic(track, rate, seconds, throat)
        tone *= 4 * envelope(len(tone), rate, 0.03, 0.08)
        if rng.random() < consonants:
            tone = _consonant(rng, rate, tone)
        return tone

    return play


_VOWELS = np.array(
    [
        [730.0, 1090, 2440, 3400],
        [270, 2290, 3010, 3500],
        [300, 870, 2240, 3300],
        [530, 1840, 2480, 3450],
        [570, 840, 2410, 3350],
        [660, 1720, 2410, 3400],
        [490, 1350, 1690, 3300],
    ]
)
"""Formants in Hz of the vowels of American English (Peterson and Barney 1952), the fourth added."""
_FORMANT_WIDTHS = np.array([50.0, 70, 110, 160])
_FORMANT_GAINS = np.array([1.0, 0.6, 0.35, 0.2])


def _consonant(rng: np.random.Generator, rate: int, tone: Samples) -> Samples:
    """`tone` after a hiss or a burst."""
    n = round(rng.uniform(0.01, 0.12) * rate)
    hiss = shaped(rng, n, rate, band(rng.uniform(1500, 6500), rng.uniform(0.5, 2)))
    hiss *= np.float32(10 ** rng.uniform(-1.6, -0.6)) * envelope(n, rate, 0.005, 0.02)
    joined: Samples = np.concatenate([hiss, tone])
    return joined[: max(n, len(tone))]


def _vibrato(pitch: float, seconds: float, depth: float, speed: float, phase: float) -> Curve:
    """A pitch [P] in Hz that wavers, less at the beginning. `speed` in Hz."""
    time = np.linspace(0, seconds, points(seconds))
    wave: Curve = np.minimum(1, 3 * time) * np.sin(2 * np.pi * speed * time + phase)
    return pitch * (1 + depth * wave)


def breathing(rng: np.random.Generator, rate: int) -> Instrument:
    """An organ or accordion: steady harmonics of drawn strength, slow tremolo."""
    drawbars = rng.uniform(0, 1, 10) ** 2
    depth, speed = rng.uniform(0, 0.3), rng.uniform(0.5, 7)

    def play(pitch: float, seconds: float) -> Samples:
        track = np.full(points(seconds), pitch)

        def pipes(hz: Curve, h: Curve) -> Curve:
            return drawbars[int(h[0]) - 1] * np.ones_like(hz) if h[0] <= 10 else 0 * hz

        tone = harmonic(track, rate, seconds, pipes)
        time = np.linspace(0, seconds, len(track))
        tone *= stretch(1 + depth * np.sin(2 * np.pi * speed * time), len(tone))
        return tone * envelope(len(tone), rate, 0.02, 0.05)

    return play


INSTRUMENTS: tuple[Maker, ...] = (
    plucked,
    plucked,
    bowed,
    bowed,
    wind,
    bell,
    fm,
    subtractive,
    subtractive,
    voice,
    voice,
    breathing,
)
"""What a layer of notes is played on; those named twice are drawn twice as often."""
