"""Mel spectrograms as condition features.

Shapes: K mel bands, M mel frames, N audio samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.conditions.frames import whole_frames
from latentdiff.conditions.kind import ConfiguredKind
from latentdiff.conditions.settings import ConditionConfig, MelConfig
from latentdiff.torchaudio_guard import import_torchaudio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Mel(ConfiguredKind):
    """The mel spectrogram of `condition.mel`; see `mel_blocks`."""

    name = "mel"
    config: MelConfig

    @classmethod
    def of(cls, condition: ConditionConfig) -> Mel:
        config = condition.mel
        return cls(config.sample_rate, config.hop, config.bands, config)

    def blocks(self, audio: Iterable[Floats]) -> Iterator[Floats]:
        return mel_blocks(audio, self.config)


def mel_of_blocks(blocks: Iterable[Floats], config: MelConfig) -> Floats:
    """Mel spectrogram [K, M] of audio that arrives in blocks [channels, N]; see `mel_blocks`."""
    return np.concatenate(list(mel_blocks(blocks, config)), axis=1)


def mel_blocks(blocks: Iterable[Floats], config: MelConfig) -> Iterator[Floats]:
    """Mel spectrogram in 0..1, in blocks [K, m], of audio that arrives in blocks [channels, N].

    The audio is at `config.sample_rate`; the result does not depend on how it is cut into blocks.
    Channels are averaged. Frame k is centred on sample k * hop, with silence outside, so that M =
    1 + N // hop. The scale is DiffWave's: magnitudes of an STFT whose window has unit energy in dB
    (20 log10), with -80..20 dB mapped to 0..1; a full-scale sine reaches 1.
    """
    import torch

    transform = import_torchaudio().transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop,
        f_min=config.f_min,
        f_max=config.f_max,
        n_mels=config.bands,
        power=config.power,
        normalized=True,
        center=False,
    )
    for samples in whole_frames(blocks, config.n_fft, config.hop):
        with torch.inference_mode():
            mel = transform(torch.from_numpy(samples))
            decibels = 20 * torch.log10(mel.clamp(min=1e-5))
            yield ((decibels - 20 + 100) / 100).clamp(0, 1).numpy()
