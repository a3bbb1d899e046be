"""What is wrong with recordings, said before hours are spent on them.

Measured in one pass over blocks that are read anyway, in the file's own rate and channels.

Shapes: N samples; blocks are [channels, N] float32, nominally in -1..1.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal[
    "silent",
    "mostly-silence",
    "silence",
    "infrasonic",
    "clipped",
    "loud",
    "duplicates",
    "out-of-phase",
    "equal-channels",
    "held-out",
]

SILENT_DB = -60.0
"""RMS in dBFS below which a file, or a tenth of a second of it, is silent."""
MOSTLY_SILENCE = 0.8
"""Share of a file that is silent, above which it is reported."""
HALF_SILENCE = 0.5
"""The same for all files together: silence is easy to learn, and flatters every score."""
INFRASONIC_HZ = 40.0
"""Below this there is hardly anything to hear, and little that loudspeakers play."""
INFRASONIC = 0.5
"""Share of a file's energy below INFRASONIC_HZ (an offset included) that is reported."""
CLIPPED = 0.005
"""Share of samples on flat tops, or beyond full scale, that is reported."""
LOUD_DB = 16.0
"""Level above the median of the other files that is reported; ten times as loud is 20 dB."""
FEWEST_FILES = 4
"""Files below which none is called louder than the others."""
OUT_OF_PHASE = -0.8
"""Correlation of left and right below which a mix to mono mostly cancels."""
EQUAL_CHANNELS = 0.9999
"""Correlation above which left and right are one channel."""
HELD_OUT_SECONDS = 10.0
"""Less held-out sound than this says nothing about new music."""
NAMED_FILES = 5
"""Files that a message names."""
_FRAME_SECONDS = 0.1
_SPECTRUM = 1 << 16
"""Samples of each block whose spectrum is measured."""
_FLAT = 1e-5
"""Distance from the peak, relative to it, of samples on a flat top."""
_AUDIBLE_PEAK = 0.25
"""Peaks below this are not looked at: the steps of 16 bits make tops of quiet sounds flat."""


@dataclass(frozen=True)
class FileHealth:
    """What was measured of one recording; levels are RMS in dBFS over all channels."""

    seconds: float
    level_db: float | None
    """None: digital silence."""
    sounding_db: float | None
    """Level without the silent parts; None: there are no others."""
    silent: float
    """Share 0..1 of its tenths of a second that are below SILENT_DB."""
    infrasonic: float
    """Share 0..1 of the energy below INFRASONIC_HZ."""
    clipped: float
    """Share 0..1 of the samples on flat tops or beyond full scale."""
    correlation: float | None
    """Correlation -1..1 of the first two channels; None: mono or silent."""
    sha256: str
    """Of the samples in 16 bits: equal for lossless copies in any format."""


@dataclass(frozen=True)
class HealthFinding:
    """Something suspicious about some recordings, or all of them."""

    kind: Kind
    keys: tuple[str, ...]
    """The recordings; empty where all are meant."""
    value: float
    """The worst that was measured, in the unit of `limit`."""
    limit: float

    @property
    def text(self) -> str:
        """What it is, and what to do about it, in one line."""
        names, value, limit = named(self.keys), self.value, self.limit
        return {
            "silent": f"(nearly) silent, below {limit:.0f} dBFS RMS: {names}. Check or remove them",
            "mostly-silence": f"mostly silence, up to {value:.0%} of a file: {names}. "
            f"data.silence_db={SILENT_DB:.0f} leaves silence out of the dataset",
            "silence": f"{value:.0%} of all recordings is silence, which is easy to learn and "
            f"flatters every score. Cut it out, or set data.silence_db={SILENT_DB:.0f}",
            "infrasonic": f"most of the energy is below {INFRASONIC_HZ:.0f} Hz (up to {value:.0%}),"
            f" where hardly anything is heard: {names}. Remove it with a high-pass filter",
            "clipped": f"clipped, up to {value:.1%} of the samples: {names}. The codec learns the "
            "distortion; use unclipped versions if there are any",
            "loud": f"far louder than the others, by up to {value:.0f} dB: {names}. Bring the "
            "files to similar levels",
            "duplicates": f"the same recording more than once: {names}. It counts that many times "
            "in training; remove the copies",
            "out-of-phase": f"left and right are out of phase (correlation {value:.2f}): {names}. "
            "Mixed to mono they cancel; invert one channel",
            "equal-channels": f"both channels are the same: {names}. data.channels=1 does with "
            "half of the work",
            "held-out": f"only {value:.1f} s of sound are held out (at least {limit:.0f} s say "
            "something about music that is new). Add recordings, or raise data.validation",
        }[self.kind]


def named(keys: Sequence[str]) -> str:
    """The first few keys, and how many more there are."""
    more = len(keys) - NAMED_FILES
    return ", ".join(keys[:NAMED_FILES]) + (f" and {more} more" if more > 0 else "")


class HealthMeter:
    """Measures one recording as it is read."""

    def __init__(self) -> None:
        self._count = self._frames = self._silent_frames = self._clipped = 0
        self._seconds = self._squares = self._sounding_squares = 0.0
        self._sounding = 0
        self._low = self._spectrum = 0.0
        self._products = np.zeros(3)
        self._hash = hashlib.sha256()

    def watch(
        self, blocks: Iterable[NDArray[np.float32]], sample_rate: int
    ) -> Iterator[NDArray[np.float32]]:
        """The same blocks, measured on their way; `sample_rate` in Hz."""
        for block in blocks:
            if block.shape[1]:
                self._add(block, sample_rate)
            yield block

    def finish(self) -> FileHealth | None:
        """What was measured; None if there was nothing to measure."""
        if not self._count:
            return None
        left, right, both = self._products
        return FileHealth(
            seconds=self._seconds,
            level_db=_decibels(self._squares, self._count),
            sounding_db=_decibels(self._sounding_squares, self._sounding),
            silent=self._silent_frames / self._frames,
            infrasonic=self._low / self._spectrum if self._spectrum else 0.0,
            clipped=self._clipped / self._count,
            correlation=float(both / math.sqrt(left * right)) if left * right > 0 else None,
            sha256=self._hash.hexdigest(),
        )

    def _add(self, block: NDArray[np.float32], sample_rate: int) -> None:
        self._count += block.size
        self._seconds += block.shape[1] / sample_rate
        self._add_levels(block, sample_rate)
        self._add_spectrum(block, sample_rate)
        self._clipped += sum(_clipped(channel) for channel in block)
        if len(block) > 1:
            left, right = block[:2].astype(np.float64)
            self._products += [left @ left, right @ right, left @ right]
        # Sample by sample, so that the length of the blocks does not matter.
        whole = np.rint(block.T * 2.0**15).astype("<i4")
        self._hash.update(np.ascontiguousarray(whole).tobytes())

    def _add_levels(self, block: NDArray[np.float32], sample_rate: int) -> None:
        squares = np.square(block, dtype=np.float64).sum(axis=0)
        starts = np.arange(0, squares.size, max(1, round(_FRAME_SECONDS * sample_rate)))
        sums = np.add.reduceat(squares, starts)
        counts = np.diff(np.append(starts, squares.size)) * len(block)
        silent = sums / counts < 10 ** (SILENT_DB / 10)
        self._squares += float(sums.sum())
        self._sounding_squares += float(sums[~silent].sum())
        self._sounding += int(counts[~silent].sum())
        self._frames += silent.size
        self._silent_frames += int(silent.sum())

    def _add_spectrum(self, block: NDArray[np.float32], sample_rate: int) -> None:
        """The spectrum of the middle of a block: enough for a share of the energy."""
        start = max(0, (block.shape[1] - _SPECTRUM) // 2)
        middle = block[:, start : start + _SPECTRUM]
        power = np.square(np.abs(np.fft.rfft(middle * np.hanning(middle.shape[1])))).sum(axis=0)
        border = math.ceil(INFRASONIC_HZ * middle.shape[1] / sample_rate)
        self._low += float(power[:border].sum())
        self._spectrum += float(power.sum())


def find_problems(
    files: Mapping[str, FileHealth], *, channels: int, held_out_seconds: float
) -> list[HealthFinding]:
    """What is suspicious about recordings, by key. `channels`: of the dataset made from them.

    `held_out_seconds`: length of the sound that is held out for validation.
    """
    found = [*_of_files(files, channels), _loud(files), _duplicates(files), _silence(files)]
    if held_out_seconds < HELD_OUT_SECONDS:
        found.append(HealthFinding("held-out", (), held_out_seconds, HELD_OUT_SECONDS))
    return [one for one in found if one is not None]


def duplicates(files: Mapping[str, FileHealth]) -> list[list[str]]:
    """Groups of keys whose recordings have the same samples; silent ones are not compared."""
    groups: dict[str, list[str]] = {}
    for key, health in files.items():
        if health.level_db is not None:
            groups.setdefault(health.sha256, []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def _of_files(files: Mapping[str, FileHealth], channels: int) -> Iterator[HealthFinding | None]:
    """The findings that each file gives by itself."""
    heard = {
        key: one
        for key, one in files.items()
        if one.level_db is not None and one.level_db >= SILENT_DB
    }
    yield _finding("silent", {key: SILENT_DB for key in files if key not in heard}, SILENT_DB)
    silent = {key: one.silent for key, one in heard.items() if one.silent > MOSTLY_SILENCE}
    yield _finding("mostly-silence", silent, MOSTLY_SILENCE)
    low = {key: one.infrasonic for key, one in heard.items() if one.infrasonic > INFRASONIC}
    yield _finding("infrasonic", low, INFRASONIC)
    clipped = {key: one.clipped for key, one in heard.items() if one.clipped > CLIPPED}
    yield _finding("clipped", clipped, CLIPPED)
    stereo = {key: one.correlation for key, one in heard.items() if one.correlation is not None}
    opposed = {key: r for key, r in stereo.items() if r < OUT_OF_PHASE}
    yield _finding("out-of-phase", opposed, OUT_OF_PHASE)
    equal = {key: r for key, r in stereo.items() if r > EQUAL_CHANNELS and channels > 1}
    yield _finding("equal-channels", equal, EQUAL_CHANNELS)


def _finding(kind: Kind, values: Mapping[str, float], limit: float) -> HealthFinding | None:
    if not values:
        return None
    worst = max(values.values(), key=lambda value: abs(value - limit))
    return HealthFinding(kind, tuple(values), worst, limit)


def _loud(files: Mapping[str, FileHealth]) -> HealthFinding | None:
    levels = {key: one.sounding_db for key, one in files.items() if one.sounding_db is not None}
    if len(levels) < FEWEST_FILES:
        return None
    # The median of all is that of the others too, but for half a step between neighbours.
    typical = statistics.median(levels.values())
    above = {key: level - typical for key, level in levels.items() if level - typical > LOUD_DB}
    return _finding("loud", above, LOUD_DB)


def _duplicates(files: Mapping[str, FileHealth]) -> HealthFinding | None:
    groups = duplicates(files)
    if not groups:
        return None
    listed = tuple(" = ".join(group) for group in groups)
    return HealthFinding("duplicates", listed, max(map(len, groups)), 1)


def _silence(files: Mapping[str, FileHealth]) -> HealthFinding | None:
    seconds = sum(one.seconds for one in files.values())
    share = sum(one.silent * one.seconds for one in files.values()) / max(seconds, 1e-12)
    return HealthFinding("silence", (), share, HALF_SILENCE) if share > HALF_SILENCE else None


def _clipped(channel: NDArray[np.float32]) -> int:
    """Samples of a channel [N] beyond full scale, or within flat tops of three or more."""
    size = np.abs(channel)
    peak = float(size.max())
    if peak < _AUDIBLE_PEAK:
        return 0
    top = size >= min(peak, 1.0) * (1 - _FLAT)
    return int((top[2:] & top[1:-1] & top[:-2]).sum())


def _decibels(squares: float, count: int) -> float | None:
    return 10 * math.log10(squares / count) if squares > 0 else None
