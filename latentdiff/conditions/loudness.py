"""Loudness: the A-weighted level, frame by frame, of a recording or of a curve that is typed.

Shapes: F frequencies, M loudness frames, N audio samples, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.conditions.frames import spectra
from latentdiff.conditions.kind import ConfiguredKind, Target
from latentdiff.conditions.settings import ConditionConfig, LoudnessConfig
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SIZE = 1
"""Features a frame."""
FLOOR = -60.0
"""dB re full scale, the lowest level told apart from silence; it is feature 0, and 0 dB is 1."""


@dataclass(frozen=True)
class Loudness(ConfiguredKind):
    """The loudness of `condition.loudness`; see `loudness_blocks`."""

    name = "loudness"
    least_std = 0.05
    config: LoudnessConfig

    @classmethod
    def of(cls, condition: ConditionConfig) -> Loudness:
        config = condition.loudness
        return cls(config.sample_rate, config.hop, SIZE, config)

    def blocks(self, audio: Iterable[Floats]) -> Iterator[Floats]:
        return loudness_blocks(audio, self.config)

    def make(self, target: Target) -> Floats | None:
        (word,) = target.options.get("loudness", ("",))
        if not word:
            return None
        if Path(word).is_file():
            return self.features(target.recording(Path(word)), target.frames, target.frame_rate)
        return curve_features(parse_curve(word), target.frames)


def loudness_blocks(blocks: Iterable[Floats], config: LoudnessConfig) -> Iterator[Floats]:
    """Loudness in 0..1, in blocks [1, m], of audio that arrives in blocks [channels, N].

    The audio is at `config.sample_rate`; frames are those of `frames.whole_frames`, and the result
    does not depend on how the audio is cut into blocks. Loudness is the A-weighted RMS in dB, with
    FLOOR..0 dB mapped to 0..1: a sine of 1 kHz at full scale is at -3 dB. Weighted, because the ear
    hardly hears the bass that decides a plain RMS: the level would follow the kick, not the music.
    """
    weights = _a_weights(np.arange(1 + config.n_fft // 2) * config.sample_rate / config.n_fft)
    # A sine of amplitude a spreads over bins whose squares sum to 1.5 a^2 (the noise bandwidth of a
    # Hann window is 1.5 bins), and has a mean square of a^2 / 2.
    weights = (weights / 3).astype(np.float32)
    for magnitudes in spectra(blocks, config.n_fft, config.hop):
        power = weights @ np.square(magnitudes)
        yield scaled(10 * np.log10(power + 1e-12))[None]


def scaled(decibels: NDArray[np.float64] | Floats) -> Floats:
    """Levels in dB as features: FLOOR..0 dB => 0..1, held at both ends."""
    return np.clip(1 - decibels / FLOOR, 0, 1).astype(np.float32)


def parse_curve(text: str) -> list[float]:
    """`-30,-12,-20` => levels in dB at equal distances, from the start to the end of a clip.

    Raises UserError for anything but numbers from FLOOR to 0.
    """
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = [math.nan]
    if not all(FLOOR <= level <= 0 for level in levels):
        raise UserError(
            f"'{text}' is not a loudness",
            why=f"levels are numbers from {FLOOR:g} to 0, in dB",
            do_this="give one, such as -20, or several that are passed through from the start to "
            "the end, such as -30,-12,-20.",
        )
    return levels


def curve_features(levels: Sequence[float], frames: int) -> Floats:
    """[1, T] for `frames` frames: linear in dB from level to level, at the frames' centres."""
    at = (np.arange(frames) + 0.5) / max(frames, 1) * (len(levels) - 1)
    return scaled(np.interp(at, np.arange(len(levels)), levels))[None]


def _a_weights(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gain in power [F] at frequencies in Hz: IEC 61672-1:2013, annex E, 1 at 1 kHz."""
    squares = np.square(frequencies)
    gain = (12194.217**2 * squares**2) / (
        (squares + 20.598997**2)
        * np.sqrt((squares + 107.65265**2) * (squares + 737.86223**2))
        * (squares + 12194.217**2)
    )
    weights: NDArray[np.float64] = np.square(gain * 10 ** (2.0 / 20))
    return weights
