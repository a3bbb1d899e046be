"""Beats and bars as a condition: grids of beats, and features of the phase in the bar.

Bars have four beats. Shapes: T frames.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentdiff.conditions.labels import recording_key
from latentdiff.errors import UserError

Numbers = NDArray[np.float64]

BEATS_PER_BAR = 4
CYCLES = (1, 2, 4, 8, 16)
"""Cycles per bar of the phase features: from the bar to sixteenth notes."""
SIZE = 2 * len(CYCLES) + 1
"""Features a frame."""
SLOWEST, FASTEST = 20.0, 400.0
"""bpm, the tempi that can be asked for."""

_SMOOTH_BEATS = 4
"""Beats to either side over which the local tempo is taken."""


@dataclass(frozen=True)
class BeatGrid:
    """The beats of a recording, at least two."""

    times: Numbers
    """Seconds, increasing."""
    positions: Numbers
    """Position of each beat in bars, increasing; whole at downbeats."""
    confidence: float = 1.0
    """0..1: how regular the beat is, see `beat_tracker.find_beats`; 1 for beats from a file."""

    @classmethod
    def in_fours(cls, times: Numbers, downbeat: int, confidence: float = 1.0) -> BeatGrid:
        """A grid whose every fourth beat, counted from beat `downbeat` (0..3), begins a bar."""
        positions = (np.arange(len(times)) - downbeat) / BEATS_PER_BAR
        return cls(np.asarray(times, dtype=np.float64), positions, confidence)

    @property
    def bpm(self) -> float:
        """Median tempo."""
        return float(np.median(self._tempi()))

    def bars(self, times: ArrayLike) -> Numbers:
        """Position in bars at `times` [T] in seconds; whole at downbeats.

        Interpolated between beats; before the first and after the last at the tempo there.
        """
        at = np.asarray(times, dtype=np.float64)
        bars = np.interp(at, self.times, self.positions)
        first, last = self.tempo(self.times[[0, -1]]) / (60 * BEATS_PER_BAR)
        before, after = at - self.times[0], at - self.times[-1]
        outside = first * np.minimum(before, 0) + last * np.maximum(after, 0)
        positions: Numbers = bars + outside
        return positions

    def tempo(self, times: ArrayLike) -> Numbers:
        """Local tempo in bpm at `times` [T] in seconds: the mean over the four beats either side.

        Held before the first and after the last beat.
        """
        count = len(self.times)
        here = np.arange(count)
        left = np.maximum(here - _SMOOTH_BEATS, 0)
        right = np.minimum(here + _SMOOTH_BEATS, count - 1)
        bars = self.positions[right] - self.positions[left]
        tempi = 60 * BEATS_PER_BAR * bars / (self.times[right] - self.times[left])
        return np.interp(np.asarray(times, dtype=np.float64), self.times, tempi)

    def shifted(self, seconds: float) -> BeatGrid:
        """The grid of the part of the recording that begins `seconds` into it."""
        return replace(self, times=self.times - seconds)

    def _tempi(self) -> Numbers:
        """bpm between one beat and the next."""
        tempi: Numbers = 60 * BEATS_PER_BAR * np.diff(self.positions) / np.diff(self.times)
        return tempi


def beat_features(bars: ArrayLike, bpm: ArrayLike, frame_rate: float) -> NDArray[np.float32]:
    """Features [11, T] of frames at positions `bars` [T] and tempi `bpm` [T].

    Sine and cosine of the phase at 1, 2, 4, 8 and 16 cycles a bar, then log2(bpm / 120). A cycle
    faster than half of `frame_rate` (Hz) at the frame's tempo would alias; it is 0.
    """
    phase = 2 * np.pi * np.asarray(bars, dtype=np.float64)
    tempo = np.asarray(bpm, dtype=np.float64)
    rows = []
    for cycles in CYCLES:
        visible = cycles * tempo / (60 * BEATS_PER_BAR) <= frame_rate / 2
        rows += [np.sin(cycles * phase) * visible, np.cos(cycles * phase) * visible]
    features: NDArray[np.float32] = np.stack([*rows, np.log2(tempo / 120)]).astype(np.float32)
    return features


def steady(
    bpm: float, end_bpm: float | None, frames: int, frame_rate: float
) -> tuple[Numbers, Numbers]:
    """(bars [T], bpm [T]) of `frames` frames from the beginning of a bar on.

    The logarithm of the tempo moves linearly from `bpm` at the start to `end_bpm` at the end (None:
    it stays), and the position is its integral at the centre of each frame, (j + 0.5) / frame_rate.
    """
    times = (np.arange(frames) + 0.5) / frame_rate
    slope = 0.0 if end_bpm is None else math.log(end_bpm / bpm) * frame_rate / max(frames, 1)
    tempo = bpm * np.exp(slope * times)
    # The integral of exp(slope t) is expm1(slope t) / slope, and t in the limit of no slope.
    stretched = np.expm1(slope * times) / slope if slope else times
    return bpm / (60 * BEATS_PER_BAR) * stretched, tempo


def parse_bpm(text: str) -> tuple[float, float | None]:
    """`125` => (125, None); `90:140` => (90, 140).

    Raises UserError for anything but one or two numbers from 20 to 400.
    """
    parts = text.split(":")
    tempi = [_number(part) for part in parts]
    valid = [tempo for tempo in tempi if tempo is not None and SLOWEST <= tempo <= FASTEST]
    if len(valid) != len(parts) or len(parts) > 2:
        raise UserError(
            f"'{text}' is not a tempo",
            why=f"a tempo is a number of beats per minute from {SLOWEST:g} to {FASTEST:g}",
            do_this="give one, such as 125, or two for a tempo that changes, such as 90:140.",
        )
    return valid[0], valid[1] if len(valid) == 2 else None


def read_beats(path: Path) -> dict[str, BeatGrid]:
    """Grids by key, from a CSV file with columns `key`, `time` and, if known, `beat`.

    One row a beat: `time` in seconds, increasing within a recording, and `beat` its number in the
    bar, 1 to 4. Without `beat` the first beat of a recording begins a bar; with it, rows may leave
    beats out (downbeats alone are enough). Raises UserError if the file cannot be read or a row is
    not so, or if a recording has fewer than two beats.
    """
    rows: dict[str, list[tuple[float, int | None]]] = {}
    for line, row in _read_rows(path):
        time = _number(row["time"] or "")
        if time is None:
            raise _bad_row(path, line, f"'{row['time']}' is not a time in seconds")
        beats = rows.setdefault((row["key"] or "").strip(), [])
        if beats and time <= beats[-1][0]:
            raise _bad_row(path, line, f"{time:g} s is not after the beat at {beats[-1][0]:g} s")
        beats.append((time, _beat_number(path, line, row["beat"]) if "beat" in row else None))
    for key, beats in rows.items():
        if len(beats) < 2:
            raise UserError(
                f"{path} has one beat for {key}",
                why="a tempo takes at least two",
                do_this="add the others, or remove the line.",
            )
    return {key: _grid(beats) for key, beats in rows.items()}


def beats_of(key: str, start: float, grids: Mapping[str, BeatGrid]) -> BeatGrid | None:
    """The grid of recording `key`, or of the part of it that begins at `start` seconds; None: none.

    "song train.wav" and "song validation.wav" are parts of "song.wav"; a grid under the part's own
    key counts from the part's beginning.
    """
    if key in grids:
        return grids[key]
    whole = grids.get(recording_key(key))
    return None if whole is None else whole.shifted(start)


def _read_rows(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    """(line number, row) for each row; raises UserError for a file without the columns."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise csv.Error("it contains NUL bytes")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the beats {path}", why=str(error)) from error
    missing = {"key", "time"} - set(reader.fieldnames or ())
    if missing or not rows:
        raise UserError(
            f"{path} is not a file of beats",
            why=f"it has no column {' and no column '.join(sorted(missing))}"
            if missing
            else "it has no rows",
            do_this="its first line must be `key,time` or `key,time,beat`, with a line for each "
            "beat below: a recording's path as in the manifest of the latents, seconds, and the "
            "number of the beat in the bar, 1 to 4.",
        )
    return rows


def _beat_number(path: Path, line: int, text: str | None) -> int:
    number = (text or "").strip()
    if number not in ("1", "2", "3", "4"):
        raise _bad_row(path, line, f"'{number}' is not the number of a beat, 1 to 4")
    return int(number)


def _grid(beats: list[tuple[float, int | None]]) -> BeatGrid:
    times = np.array([time for time, _ in beats])
    numbers = [number for _, number in beats if number is not None]
    if not numbers:
        return BeatGrid.in_fours(times, 0)
    steps = (np.diff(numbers) - 1) % BEATS_PER_BAR + 1  # the same beat again is a bar later
    beat_count = numbers[0] - 1 + np.concatenate([[0], np.cumsum(steps)])
    return BeatGrid(times, beat_count / BEATS_PER_BAR)


def _number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _bad_row(path: Path, line: int, why: str) -> UserError:
    return UserError(f"{path}, line {line}, is not a beat", why=why, do_this="correct the line.")
