"""Layers of a scene: what an instrument, a kit or nature does for some seconds.

Each is drawn from a generator, and equal generators give equal samples.

Shapes: N samples of a layer, n of a note.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from latentdiff.synth.band import compose
from latentdiff.synth.instruments import INSTRUMENTS, Instrument, voice
from latentdiff.synth.noise import band, shaped, tilted
from latentdiff.synth.partials import Curve, Samples, envelope, harmonic, points, stretch
from latentdiff.synth.percussion import KITS

Layer = Callable[[np.random.Generator, int, float], Samples]
"""(generator, sample rate in Hz, seconds) -> samples [N]."""

_SCALES = (
    (0, 2, 4, 5, 7, 9, 11),
    (0, 2, 3, 5, 7, 8, 10),
    (0, 2, 3, 5, 7, 9, 10),
    (0, 3, 5, 7, 10),
    (0, 2, 4, 6, 8, 10),
    tuple(range(12)),
)
_TAKES = 2
"""Notes of equal pitch and length that an instrument plays before they are repeated."""


def melody(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """One line: a walk on a scale, in an irregular or a regular rhythm."""
    player, scale = _Player(rng, rate), _Scale(rng, 36, 88)
    beat, legato = rng.uniform(0.12, 0.7), rng.uniform(0.4, 1.4)
    lengths = rng.choice([0.5, 1, 1, 1.5, 2, 3], size=rng.integers(1, 6))
    out, at, degree, count = _silence(rate, seconds), 0.0, scale.middle, 0
    while at < seconds:
        length = beat * lengths[count % len(lengths)]
        degree += int(rng.integers(-2, 3)) + round(0.1 * (scale.middle - degree))
        if rng.random() > 0.12:
            _add(out, player.note(scale.hz(degree), length * legato), at, rate, rng.uniform(0.5, 1))
        at, count = at + length, count + 1
    return out


def chords(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """Three to five notes at once, struck together, strummed or broken."""
    player, scale = _Player(rng, rate), _Scale(rng, 45, 76)
    length, notes = rng.uniform(0.4, 3.0), int(rng.integers(3, 6))
    spread = rng.choice([0.0, 0.02, 0.12])
    roots = rng.integers(-4, 5, size=rng.integers(1, 5))
    out = _silence(rate, seconds)
    for count in range(int(seconds / length) + 1):
        root = scale.middle + int(roots[count % len(roots)])
        for i in range(notes):
            note = player.note(scale.hz(root + 2 * i), length)
            _add(out, note, count * length + i * spread, rate, rng.uniform(0.6, 1))
    return out


def pulse(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """A pattern of one to four percussive sounds that repeats, with small deviations."""
    step, steps = rng.uniform(0.07, 0.3), int(rng.integers(4, 17))
    out = _silence(rate, seconds)
    for _ in range(rng.integers(1, 5)):
        hit = KITS[rng.integers(len(KITS))](rng, rate)
        takes = [hit() for _ in range(4)]
        pattern = rng.random(steps) < rng.uniform(0.1, 0.7)
        gains, level = rng.uniform(0.3, 1, steps), rng.uniform(0.3, 1)
        for count in range(int(seconds / step)):
            if pattern[count % steps]:
                gain = level * gains[count % steps] * rng.uniform(0.85, 1)
                _add(out, takes[count % 4], count * step, rate, gain)
    return out


def scatter(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """Hits at random times, from single drops to a crackle."""
    hit = KITS[rng.integers(len(KITS))](rng, rate)
    takes = [hit() for _ in range(8)]
    out = _silence(rate, seconds)
    for at in rng.uniform(0, seconds, rng.poisson(10 ** rng.uniform(-0.3, 1.5) * seconds)):
        _add(out, takes[rng.integers(8)], at, rate, rng.uniform(0.1, 1) ** 2)
    return out


def speech(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """Syllables of one speaker in phrases, with pauses to breathe; not words."""
    speaker = voice(rng, rate)
    pitch, out, at = 10 ** rng.uniform(1.9, 2.45), _silence(rate, seconds), 0.0
    while at < seconds:
        syllables = int(rng.integers(3, 12))
        for i in range(syllables):
            length = rng.uniform(0.08, 0.3)
            fall = 1.15 - 0.3 * i / syllables + 0.08 * rng.standard_normal()
            _add(out, speaker(pitch * max(0.5, fall), length), at, rate, rng.uniform(0.4, 1))
            at += length * rng.uniform(0.8, 1.1)
        at += rng.uniform(0.15, 0.9)
    return out


def drone(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """Held tones whose brightness and strength drift, close enough to beat."""
    out = _silence(rate, seconds)
    root, size = 10 ** rng.uniform(1.6, 2.6), points(seconds)
    for ratio in rng.choice([1, 1, 1.003, 1.5, 2, 2.007, 3], size=rng.integers(2, 5)):
        slope = partial(_sloping, _drift(rng, size, 0.8, 3.0))
        pitch = root * ratio * _drift(rng, size, 0.997, 1.003)
        tone = harmonic(pitch, rate, seconds, slope)
        out += tone[: len(out)] * stretch(_drift(rng, size, 0.1, 1), len(out))
    return out


def texture(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """Wind, rain, surf, crowd, tape: bands of noise whose strengths drift."""
    n = round(seconds * rate)
    out, size = _silence(rate, seconds), max(4, round(seconds * 10 ** rng.uniform(-0.5, 1.3)))
    for _ in range(rng.integers(1, 5)):
        steep = rng.random() < 0.4
        response = (
            tilted(rng.uniform(-9, 3))
            if steep
            else band(10 ** rng.uniform(2, 3.8), rng.uniform(0.1, 4))
        )
        out += shaped(rng, n, rate, response) * stretch(_drift(rng, size, 0.02, 1), n)
    return out


def birds(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """Whistles and chirps that glide over octaves."""
    out, at = _silence(rate, seconds), rng.uniform(0, 1)
    low = min(10 ** rng.uniform(2.7, 3.6), 0.2 * rate)
    while at < seconds:
        shape = low * 2 ** rng.uniform(-0.3, 1, rng.integers(2, 6))
        for _ in range(rng.integers(1, 7)):
            length = rng.uniform(0.04, 0.35)
            track = np.interp(
                np.linspace(0, 1, points(length)), np.linspace(0, 1, len(shape)), shape
            )
            chirp = harmonic(track, rate, length, lambda hz, h: h**-3.0)
            chirp *= envelope(len(chirp), rate, 0.01, 0.02)
            _add(out, chirp, at, rate, rng.uniform(0.4, 1))
            at += length * rng.uniform(1, 1.6)
        at += rng.exponential(0.8)
    return out


def ensemble(rng: np.random.Generator, rate: int, seconds: float) -> Samples:
    """The band of `quickstart`, from anywhere within one of its pieces."""
    piece = compose(
        int(rng.integers(1 << 30)), int(rng.integers(1 << 10)), rate, seconds=seconds + 8
    )
    start = int(rng.integers(len(piece) - round(seconds * rate) + 1))
    return piece[start : start + round(seconds * rate)]


LAYERS: tuple[tuple[Layer, float], ...] = (
    (melody, 4.0),
    (chords, 4.0),
    (pulse, 2.0),
    (scatter, 1.0),
    (speech, 2.0),
    (drone, 1.0),
    (texture, 1.5),
    (birds, 0.7),
    (ensemble, 2.0),
)
"""What scenes consist of, and how often."""


class _Player:
    """An instrument that remembers its notes: most of the cost is in making them."""

    def __init__(self, rng: np.random.Generator, rate: int) -> None:
        self._rng = rng
        self._play: Instrument = INSTRUMENTS[rng.integers(len(INSTRUMENTS))](rng, rate)
        self._notes: dict[tuple[float, float, int], Samples] = {}

    def note(self, pitch: float, seconds: float) -> Samples:
        """One of a few takes of a note [n]."""
        key = (pitch, seconds, int(self._rng.integers(_TAKES)))
        if key not in self._notes:
            self._notes[key] = self._play(pitch, seconds)
        return self._notes[key]


class _Scale:
    """Pitches of a scale between two MIDI notes, in a tuning of its own."""

    def __init__(self, rng: np.random.Generator, low: int, high: int) -> None:
        self._steps = _SCALES[rng.integers(len(_SCALES))]
        self._root = rng.uniform(0, 12)
        centre = rng.uniform(low + 8, high - 8)
        self.middle = round((centre - self._root) / 12 * len(self._steps))
        """Degree in the middle of the player's range."""

    def hz(self, degree: int) -> float:
        """Pitch of a degree of the scale, folded into 40 to 2,000 Hz."""
        turns, step = divmod(degree, len(self._steps))
        note = self._root + 12 * turns + self._steps[step]
        return float(np.clip(440 * 2 ** ((note - 69) / 12), 40, 2000))


def _silence(rate: int, seconds: float) -> Samples:
    return np.zeros(round(seconds * rate), np.float32)


def _add(out: Samples, note: Samples, at: float, rate: int, gain: float) -> None:
    """Add a note [n] to `out` [N] at a time in seconds; what exceeds its end is left out."""
    start = round(at * rate)
    part = note[: max(0, len(out) - start)]
    out[start : start + len(part)] += np.float32(gain) * part


def _sloping(slope: Curve, hz: Curve, h: Curve) -> Curve:
    """The spectrum of harmonics that fall by a power that changes along the note."""
    return h**-slope


def _drift(rng: np.random.Generator, size: int, low: float, high: float) -> Curve:
    """A slow random curve [size] between two positive values."""
    knots = rng.uniform(np.log(low), np.log(high), max(3, min(size, 8)))
    places = np.linspace(0, 1, len(knots))
    return np.exp(np.interp(np.linspace(0, 1, size), places, knots))
