"""Chroma as a condition: how strong each of the twelve pitch classes is, frame by frame.

Shapes: M chroma frames, N audio samples, T frames. Pitch class 0 is C.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.conditions.chords import SIZE, chord_features, parse_chords
from latentdiff.conditions.frames import spectra
from latentdiff.conditions.kind import ConfiguredKind, Target
from latentdiff.conditions.settings import ChromaConfig, ConditionConfig
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Chroma(ConfiguredKind):
    """The chroma of `condition.chroma`; see `chroma_blocks`."""

    name = "chroma"
    least_std = 0.05
    config: ChromaConfig

    @classmethod
    def of(cls, condition: ConditionConfig) -> Chroma:
        config = condition.chroma
        return cls(config.sample_rate, config.hop, SIZE, config)

    def blocks(self, audio: Iterable[Floats]) -> Iterator[Floats]:
        return chroma_blocks(audio, self.config)

    def make(self, target: Target) -> Floats | None:
        (text,), (song,) = (target.options.get(name, ("",)) for name in ("chords", "chroma"))
        if text and song:
            raise UserError(
                "--chords and --chroma cannot be given together", do_this="leave one of them out."
            )
        if song:
            return self.features(target.recording(Path(song)), target.frames, target.frame_rate)
        if not text:
            return None
        beat = target.made.get("beat")
        if beat is None:
            raise UserError(
                "--chords needs a beat: there is one chord a bar",
                why="none was asked for, and what the sample follows has none that the model knows",
                do_this="give a tempo with --bpm, to a model that follows beat and chroma.",
            )
        sine, cosine = beat[:2]
        bars = np.unwrap(np.arctan2(sine, cosine)) / (2 * np.pi)
        # From the bar that the sample begins in.
        return chord_features(parse_chords(text), bars - np.floor(bars[:1]))


def chroma_blocks(blocks: Iterable[Floats], config: ChromaConfig) -> Iterator[Floats]:
    """Chroma in 0..1, in blocks [12, m], of audio that arrives in blocks [channels, N].

    The audio is at `config.sample_rate`; frames are those of `frames.whole_frames`, and the result
    does not depend on how the audio is cut into blocks. Each frame is the amplitude of the twelve
    pitch classes divided by its Euclidean norm, so that loudness is out. Frames quieter than about
    -60 dBFS fade to 0 instead of showing the chroma of their noise.
    """
    bank = _filter_bank(config)
    for magnitudes in spectra(blocks, config.n_fft, config.hop):
        power = bank @ np.square(magnitudes)
        amplitude = np.sqrt(power)
        norm = np.sqrt(power.sum(axis=0, keepdims=True) + _QUIET**2)
        yield (amplitude / norm).astype(np.float32)


_QUIET = 1e-3
"""Amplitude, relative to full scale, at which a frame is faded to 1 / sqrt(2)."""


def _filter_bank(config: ChromaConfig) -> Floats:
    """[12, 1 + n_fft // 2]: the share of a bin's power that counts for each pitch class.

    A Gaussian in pitch, normalised over the classes so that a bin's power is counted once.
    """
    frequencies = np.arange(1 + config.n_fft // 2) * config.sample_rate / config.n_fft
    counted = (frequencies >= config.f_min) & (frequencies <= config.f_max)
    pitch = 69 + 12 * np.log2(np.maximum(frequencies, config.f_min) / 440)
    away = (pitch - np.arange(SIZE)[:, None] + 6) % 12 - 6
    shares = np.exp(-0.5 * np.square(away / _PITCH_DEVIATION))
    bank: Floats = (shares / shares.sum(axis=0) * counted).astype(np.float32)
    return bank


_PITCH_DEVIATION = 0.25
"""Semitones."""
