"""A small synthesiser: the music that `quickstart` trains on if it is given none.

Drums, bass, chords and a melody in four styles, with tempo, key and chord progression drawn per
piece, and a form (intro, groove, full, break, full) within it. A seed determines everything.
Notes are sums of harmonics below the Nyquist frequency, so nothing aliases at any sample rate.

Shapes: N samples, H harmonics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

STEPS = 16
"""Sixteenth notes in a bar of four beats."""

RMS_DBFS = -16.0
"""Level of a piece before soft clipping, which costs a few tenths of a dB."""

_MINOR = (0, 2, 3, 5, 7, 8, 10)
_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_DORIAN = (0, 2, 3, 5, 7, 9, 10)

# Layers that play in each part of a piece, and the part's share of its bars.
_FORM: tuple[tuple[float, frozenset[str]], ...] = (
    (0.15, frozenset({"hat", "chords"})),
    (0.20, frozenset({"kick", "hat", "bass", "chords"})),
    (0.25, frozenset({"kick", "snare", "hat", "bass", "chords", "melody"})),
    (0.12, frozenset({"chords", "melody"})),
    (0.28, frozenset({"kick", "snare", "hat", "bass", "chords", "melody"})),
)

_MIX = {"kick": 0.9, "snare": 0.5, "hat": 0.16, "bass": 0.5, "chords": 0.34, "melody": 0.3}
"""Gain of each layer."""


@dataclass(frozen=True)
class Style:
    """A style of music. Patterns have one character per sixteenth: `.` rests, `x` plays.

    In `bass` and `melody` a digit plays that step of the scale above the root of the chord.
    """

    name: str
    tempo: tuple[int, int]
    """Beats per minute, lowest and highest."""
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
        name="house",
        tempo=(118, 128),
        scale=_MINOR,
        progressions=((0, 5, 2, 6), (0, 3, 5, 4)),
        kick="x...x...x...x...",
        snare="....x.......x...",
        hat="..x...x...x...x.",
        bass="..0..0.0..0..0.4",
        chords="x..x..x...x..x..",
        melody=("4...2...0.......", "2.4...5...4...2."),
        pluck=True,
    ),
    Style(
        name="ballad",
        tempo=(72, 84),
        scale=_MAJOR,
        progressions=((0, 4, 5, 3), (0, 5, 3, 4)),
        kick="x.....x...x.....",
        snare="....x.......x...",
        hat="x.x.x.x.x.x.x.x.",
        bass="0.......4...0...",
        chords="x...............",
        melody=("4.....2.0...1...", "2...4...7...4.2."),
        pluck=False,
    ),
    Style(
        name="breaks",
        tempo=(150, 166),
        scale=_DORIAN,
        progressions=((0, 0, 3, 3), (0, 6, 3, 0)),
        kick="x.........x.....",
        snare="....x..x.x..x...",
        hat="x.x.x.x.x.x.x.xx",
        bass="0.....0...3.....",
        chords="x...............",
        melody=("7...4.......2...", "....2.4.7......."),
        pluck=False,
    ),
    Style(
        name="funk",
        tempo=(98, 108),
        scale=_DORIAN,
        progressions=((0, 3, 0, 4), (0, 0, 6, 3)),
        kick="x..x......x..x..",
        snare="....x..x....x...",
        hat="xxx.xxx.xxx.xxx.",
        bass="0..0..7.0..4..6.",
        chords="....x..x....x.x.",
        melody=("7..5..4...2.....", "....4.2.0..2...."),
        pluck=True,
    ),
)


def compose(
    seed: int, index: int, sample_rate: int, *, seconds: float = 24.0
) -> NDArray[np.float32]:
    """Piece `index` of the collection `seed`: mono float32 [N] in -1..1.

    `sample_rate` in Hz. `seconds` is rounded to whole bars, at least five, one for each part of the
    form. Equal arguments give equal samples. `index` cycles through the styles.
    """
    style = STYLES[index % len(STYLES)]
    player = _Player(style, np.random.default_rng([seed, index]), sample_rate, seconds)
    layers = player.play()
    mixed = np.sum([gain * layers[name] for name, gain in _MIX.items()], axis=0)
    return _master(mixed).astype(np.float32)


class _Player:
    """Plays one piece: draws key, tempo and progression, then fills every bar of every layer."""

    def __init__(
        self, style: Style, rng: np.random.Generator, sample_rate: int, seconds: float
    ) -> None:
        self.style = style
        self.rng = rng
        self.rate = sample_rate
        self.root = int(rng.integers(0, 12))
        self.tempo = int(rng.integers(style.tempo[0], style.tempo[1] + 1))
        self.progression = style.progressions[int(rng.integers(len(style.progressions)))]
        self.brightness = float(rng.uniform(0.8, 1.25))
        self.step = 60.0 / self.tempo / 4
        self.bars = max(len(_FORM), round(seconds / (STEPS * self.step)))
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
            accent = (1.0 if step % 4 == 0 else 0.75) * self.rng.uniform(0.9, 1.0)
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
        return tone * _fade(len(tone), self.rate, 0.006, 0.03)

    def _lead(self, pitch: float, seconds: float) -> Samples:
        tone = _harmonics(pitch, seconds, self.rate, slope=1.2, damping=0.8, odd=True, vibrato=4e-3)
        return tone * _fade(len(tone), self.rate, 0.02, 0.06)

    def _pluck(self, pitch: float, seconds: float) -> Samples:
        tone = _harmonics(pitch, max(seconds, 0.3), self.rate, slope=0.9, damping=5.0)
        return tone * _fade(len(tone), self.rate, 0.003, 0.05)

    def _pad(self, pitch: float, seconds: float) -> Samples:
        pair = [
            _harmonics(pitch * (1 + cents), seconds, self.rate, slope=1.3, damping=0.02)
            for cents in (-2e-3 * self.brightness, 2e-3 * self.brightness)
        ]
        tone = (pair[0] + pair[1]) / 2
        return tone * _fade(len(tone), self.rate, 0.15, 0.2)


def _bar_layers(bars: int) -> list[frozenset[str]]:
    """The layers that play in each bar; every part of the form gets at least one bar."""
    ends = np.cumsum([share for share, _ in _FORM]) * bars
    return [
        _FORM[min(int(np.searchsorted(ends, bar + 0.5)), len(_FORM) - 1)][1] for bar in range(bars)
    ]


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


def _fade(length: int, rate: int, attack: float, release: float) -> Samples:
    """An envelope [N] with half-cosine attack and release, both in seconds."""
    envelope = np.ones(length)
    for seconds, part in ((attack, slice(None)), (release, slice(None, None, -1))):
        size = min(length // 2, max(1, int(seconds * rate)))
        envelope[part][:size] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(size) / size)
    return envelope


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
    close = _fade(len(time), rate, 1e-3, 0.02)
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
