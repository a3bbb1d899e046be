"""Scenes: a few layers in a room, as a microphone, a mixer or a bad tape might give them.

Made to be unlike each other, so that a codec trained on them has heard a bit of everything.

Shapes: N samples.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from latentdiff.synth.layers import LAYERS
from latentdiff.synth.noise import reverberate, shaped, tilted
from latentdiff.synth.partials import Samples

LEVELS_DBFS = (-32.0, -10.0)
"""Range of the RMS level of a scene."""
_SILENT_SHARE = 0.02
"""Share of the scenes that are digital silence or hardly audible hiss."""
_LAYERS_CHANCES = (0.35, 0.3, 0.2, 0.15)
"""Chances of one, two, three, four layers."""


def scene(seed: int, index: int, sample_rate: int, *, seconds: float = 12.0) -> NDArray[np.float32]:
    """Scene `index` of the collection `seed`: mono float32 [N] in -1..1.

    `sample_rate` in Hz. Equal arguments give equal samples.
    """
    rng = np.random.default_rng([seed, index])
    n = round(seconds * sample_rate)
    if rng.random() < _SILENT_SHARE:
        return _hiss(rng, n, sample_rate)
    count = 1 + int(rng.choice(len(_LAYERS_CHANCES), p=_LAYERS_CHANCES))
    weights = np.array([weight for _, weight in LAYERS])
    mixed = np.zeros(n, np.float32)
    for choice in rng.choice(len(LAYERS), size=count, p=weights / weights.sum()):
        layer = LAYERS[choice][0](rng, sample_rate, seconds)
        mixed += _normalised(layer) * np.float32(10 ** (rng.uniform(-18, 0) / 20))
    return _record(rng, mixed, sample_rate)


def _record(rng: np.random.Generator, sound: Samples, rate: int) -> Samples:
    """Room, saturation, tone control, fades, noise floor, level."""
    if rng.random() < 0.6:
        sound = reverberate(rng, sound, rate, 10 ** rng.uniform(-0.9, 0.5), rng.uniform(0.05, 0.6))
    if rng.random() < 0.25:
        drive = np.float32(10 ** rng.uniform(-0.3, 0.9))
        sound = np.tanh(drive * _normalised(sound)) / drive
    if rng.random() < 0.5:
        sound = _tone_control(rng, sound, rate)
    if rng.random() < 0.15:
        ends = rng.uniform(0, 1, 2)
        sound = sound * np.linspace(ends[0], ends[1], len(sound), dtype=np.float32)
    level = 10 ** (rng.uniform(*LEVELS_DBFS) / 20)
    sound = _normalised(sound) * np.float32(level)
    if rng.random() < 0.6:
        floor = np.float32(level * 10 ** (rng.uniform(-60, -25) / 20))
        sound = sound + floor * shaped(rng, len(sound), rate, tilted(rng.uniform(-6, 0)))
    # Soft, so that loud scenes are squashed as masters are, and none is clipped.
    return np.asarray(np.tanh(sound / 0.95) * 0.95, np.float32)


def _tone_control(rng: np.random.Generator, sound: Samples, rate: int) -> Samples:
    """A gentle tilt about 1 kHz, and sometimes a low-pass, as old recordings have."""
    spectrum = np.fft.rfft(sound)
    hz = np.maximum(np.fft.rfftfreq(len(sound), 1 / rate), 30.0)
    gain = (hz / 1000) ** (rng.uniform(-4, 4) / (20 * math.log10(2)))
    if rng.random() < 0.3:
        gain /= 1 + (hz / 10 ** rng.uniform(3.2, 3.9)) ** 4
    return np.fft.irfft(spectrum * gain, len(sound)).astype(np.float32)


def _hiss(rng: np.random.Generator, n: int, rate: int) -> Samples:
    if rng.random() < 0.5:
        return np.zeros(n, np.float32)
    level = np.float32(10 ** (rng.uniform(-90, -50) / 20))
    return level * shaped(rng, n, rate, tilted(rng.uniform(-6, 0)))


def _normalised(sound: Samples) -> Samples:
    """RMS 1; silence stays silent."""
    level = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    return sound / np.float32(level) if level > 1e-9 else sound
