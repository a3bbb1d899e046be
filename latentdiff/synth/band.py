"""A small synthesiser: the music that `quickstart` trains on if it is given none.

Drums, bass, chords and a melody in three styles, with key and chord progression drawn per piece,
tempi spread evenly over all pieces, and a form (drums and bass, chords, full, without bass) within
each. Bars have four beats, chords change with the bars. A seed determines everything.
Notes are sums of harmonics below the Nyquist frequency, so nothing aliases at any sample rate.

Shapes: N samples, H harmonics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdiff.synth.partials import fade

Samples = NDArray[np.float64]

STEPS = 16
"""Sixteenth notes in a bar of four beats."""

SLOWEST, FASTEST = 76.0, 158.0
"""Range of the tempi, in beats per minute."""
TEMPI = 12
"""This many consecutive pieces have tempi spread evenly, as ratios, over the range."""
_TEMPO_STRIDE = 5
"""From a piece's place among the tempi to the next one's. It shares no factor with TEMPI, so that
all are visited, and few pieces already range from slow to fast, in each style."""

RMS_DBFS = -16.0
"""Level of a piece before soft clipping, which costs a few tenths of a dB."""

_MINOR = (0, 2, 3, 5, 7, 8, 10)
_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_DORIAN = (0, 2, 3, 5, 7, 9, 10)

# Layers that play in each part of a piece; all parts are equally many bars long.
_FORM: tuple[frozenset[str], ...] = (
    frozenset({"kick", "snare", "hat", "bass"}),
    frozenset({"kick", "snare", "hat", "bass", "chords"}),
    frozenset({"kick", "snare", "hat", "bass", "chords", "melody"}),
    frozenset({"kick", "snare", "hat", "chords", "melody"}),
)

_MIX = {"kick": 1.0, "snare": 0.7, "hat": 0.2, "bass": 0.45, "chords": 0.3, "melody": 0.26}
"""Gain of each layer."""


@dataclass(frozen=True)
class Style:
    """A style of music. Patterns have one character per sixteenth: `.` rests, `x` plays.

    In `bass` and `melody` a digit plays that step of the scale above the root of the chord.
    """

    name: str
    scale: tuple[int, ...]
    progressions: tuple[tuple[int, ...], ...]
    """Chord roots as scale steps, one per bar."""
    kick: str
    snare: str
    hat: str
    bass: str
    chords: str
    melody: tuple[str, ...]
    pluck: bool
    """Chords are plucked; otherwise they fade in and are held."""


STYLES = (
    Style(
        name="rock",
        scale=_MAJOR,
        progressions=((0, 4, 5, 3), (0, 5, 3, 4)),
        kick="x.......x.......",
        snare="....x.......x...",
        hat="x...x...x...x...",
        bass="0.0.0.0.0.0.0.0.",
        chords="x...............",
        melody=("4...4...2...0...", "2...4...7...4..."),
        pluck=False,
    ),
    Style(
        name="house",
        scale=_MINOR,
        progressions=((0, 5, 2, 6), (0, 3, 5, 4)),
        kick="x...x...x...x...",
        snare="....x.......x...",
        hat="x.x.x.x.x.x.x.x.",
        bass="0.7.0.7.0.7.0.7.",
        chords="x.....x...x...x.",
        melody=("4...2...0...2...", "2...4...5...4..."),
        pluck=True,
    ),
    Style(
        name="soul",
        scale=_DORIAN,
        progressions=((0, 3, 0, 4), (0, 6, 3, 0)),
        kick="x.......x.......",
        snare="x...x...x...x...",
        hat="..x...x...x...x.",
        bass="0...0...0...0...",
        chords="x...x...x...x...",
        melody=("7...5...4...2...", "4...2...0...2..."),
        pluck=True,
    ),
)
"""What each plays repeats from beat to beat; the kick, its accent and the new chord tell the first
beat of a bar."""


def compose(
    seed: int, index: int, sample_rate: int, *, seconds: float = 24.0
) -> NDArray[np.float32]:
    """Piece `index` of the collection `seed`: mono float32 [N] in -1..1.

    `sample_rate` in Hz. `seconds` is rounded to whole bars, equally many for each part of the form.
    The first sample is a downbeat. Equal arguments give equal samples. `index` cycles through the
    styles.
    """
    layers = _Player(seed, index, sample_rate, seconds).play()
    mixed = np.sum([gain * layers[name] for name, gain in _MIX.items()], axis=0)
    return _master(mixed).astype(np.float32)


def tempo(seed: int, index: int) -> float:
    """Beats per minute of piece `index` of the collection `seed`, the same throughout the piece."""
    within = np.random.default_rng([seed, index, TEMPI]).uniform()
    place = (_TEMPO_STRIDE * index % TEMPI + within) / TEMPI
    return float(SLOWEST * (FASTEST / SLOWEST) ** place)


class _Player:
    """Plays one piece: draws key and progression, then fills every bar of every layer."""

    def __init__(self, seed: int, index: int, sample_rate: int, seconds: float) -> None:
        self.style = style = STYLES[index % len(STYLES)]
        self.rng = rng = np.random.default_rng([seed, index])
        self.rate = sample_rate
        self.root = int(rng.integers(0, 12))
        self.progression = style.progressions[int(rng.integers(len(style.progressions)))]
        self.brightness = float(rng.uniform(0.8, 1.25))
        self.step = 60.0 / tempo(seed, index) / 4
        self.bars = len(_FORM) * max(1, round(seconds / (len(_FORM) * STEPS * self.step)))
        self.drums = _drum_kit(rng, sample_rate)
        self._notes: dict[tuple[str, str, int, float], Samples] = {}

    def play(self) -> dict[str, Samples]:
        """Layer name -> mono samples [N], all of equal length."""
        length = math.ceil(self.bars * STEPS * self.step * self.rate)
        layers = {name: np.zeros(length) for name in _MIX}
        for bar, playing in enumerate(_bar_layers(self.bars)):
            for name in sorted(playing):
                self._play_bar(name, bar, layers[name])
        return layers

    def _play_bar(self, name: str, bar: int, out: Samples) -> None:
        chord = self.progression[bar % len(self.progression)]
        pattern = getattr(self.style, name)
        if name == "melody":
            pattern = pattern[bar % len(pattern)]
        for step, mark in enumerate(pattern):
            if mark == ".":
                continue
            start = round((bar * STEPS + step) * self.step * self.rate)
            accent = _accent(step) * self.rng.uniform(0.9, 1.0)
            length = (_rests_after(pattern, step) + 1) * self.step
            note = self._notes.get((name, mark, chord, length))
            if note is None:
                note = self._notes[name, mark, chord, length] = self._note(
                    name, mark, chord, length
                )
            end = min(len(out), start + len(note))
            out[start:end] += accent * note[: end - start]

    def _note(self, name: str, mark: str, chord: int, seconds: float) -> Samples:
        if name in self.drums:
            return self.drums[name]
        if name == "bass":
            return self._bass(self._pitch(chord + int(mark), octave=-2), seconds)
        if name == "melody":
            return self._lead(self._pitch(chord + int(mark), octave=1), seconds)
        voices = [self._pitch(chord + third, octave=0) for third in (0, 2, 4)]
        voice = self._pluck if self.style.pluck else self._pad
        chord_tone: Samples = np.sum([voice(pitch, seconds) for pitch in voices], axis=0)
        return chord_tone / len(voices)

    def _pitch(self, degree: int, octave: int) -> float:
        """Frequency in Hz of a scale step; step 0 of octave 0 is at most half an octave from C4."""
        turns, step = divmod(degree, len(self.style.scale))
        semitone = self.root + self.style.scale[step] + 12 * (turns + octave)
        return 261.63 * 2 ** ((semitone - 6) / 12)

    def _bass(self, pitch: float, seconds: float) -> Samples:
        tone = _harmonics(pitch, seconds, self.rate, slope=1.6, damping=1.0 * self.brightness)
        return tone * fade(len(tone), self.rate, 0.006, 0.03)

    def _lead(self, pitch: float, seconds: float) -> Samples:
        tone = _harmonics(pitch, seconds, self.rate, slope=1.2, damping=0.8, odd=True, vibrato=4e-3)
        return tone * fade(len(tone), self.rate, 0.02, 0.06)

    def _pluck(self, pitch: float, seconds: float) -> Samples:
        tone = _harmonics(pitch, max(seconds, 0.3), self.rate, slope=0.9, damping=5.0)
        return tone * fade(len(tone), self.rate, 0.003, 0.05)

    def _pad(self, pitch: float, seconds: float) -> Samples:
        pair = [
            _harmonics(pitch * (1 + cents), seconds, self.rate, slope=1.3, damping=0.02)
            for cents in (-2e-3 * self.brightness, 2e-3 * self.brightness)
        ]
        tone = (pair[0] + pair[1]) / 2
        return tone * fade(len(tone), self.rate, 0.15, 0.2)


def _bar_layers(bars: int) -> list[frozenset[str]]:
    """The layers that play in each bar; `bars` is a multiple of the parts of the form."""
    return [playing for playing in _FORM for _ in range(bars // len(_FORM))]


def _accent(step: int) -> float:
    """Gain of a note at a sixteenth of the bar: the downbeat is the strongest."""
    return 1.0 if step == 0 else 0.8 if step % 4 == 0 else 0.6


def _rests_after(pattern: str, step: int) -> int:
    """Sixteenths that a note may ring before the next one of its layer, within the bar."""
    rest = pattern[step + 1 :]
    return len(rest) - len(rest.lstrip("."))


def _harmonics(
    pitch: float,
    seconds: float,
    rate: int,
    *,
    slope: float,
    damping: float,
    odd: bool = False,
    vibrato: float = 0.0,
) -> Samples:
    """A tone [N] of harmonics h with amplitude h^-slope and decay rate damping * (1 + h/2) per s.

    `odd`: only odd harmonics (a hollow tone). `vibrato`: its depth, as a fraction of the pitch.
    """
    time = np.arange(max(1, int(seconds * rate))) / rate
    wobble = vibrato * np.sin(2 * np.pi * 5.5 * time) / (2 * np.pi * 5.5)
    phase = 2 * np.pi * pitch * (time + wobble)
    tone = np.zeros_like(time)
    for h in range(1, 24, 2 if odd else 1):
        if h * pitch * (1 + vibrato) >= 0.45 * rate:
            break
        tone += h**-slope * np.exp(-damping * (1 + h / 2) * time) * np.sin(h * phase)
    return tone


def _drum_kit(rng: np.random.Generator, rate: int) -> dict[str, Samples]:
    """Kick, snare and hat as samples [N]; each piece gets its own kit."""
    time = np.arange(int(0.3 * rate)) / rate
    noise = rng.uniform(-1, 1, len(time))
    # Each first difference tilts the spectrum by 6 dB per octave towards high frequencies.
    bright = np.diff(noise, prepend=0.0)
    low, sweep = rng.uniform(45, 55), rng.uniform(70, 110)
    fall = 0.03
    phase = 2 * np.pi * (low * time + sweep * fall * (1 - np.exp(-time / fall)))
    body = np.sin(2 * np.pi * rng.uniform(170, 210) * time) * np.exp(-time / 0.06)
    close = fade(len(time), rate, 1e-3, 0.02)
    return {
        "kick": np.sin(phase) * np.exp(-time / 0.11) * close,
        "snare": (0.6 * body + 0.5 * (noise + bright) * np.exp(-time / 0.07)) * close,
        "hat": np.diff(bright, prepend=0.0) * np.exp(-time / rng.uniform(0.02, 0.045)) * close,
    }


def _master(mixed: Samples) -> Samples:
    """Set the level, then clip softly: no sample reaches full scale."""
    level = math.sqrt(float(np.mean(mixed**2)))
    clipped: Samples = np.tanh(mixed * (10 ** (RMS_DBFS / 20) / level) / 0.9) * 0.9
    return clipped
