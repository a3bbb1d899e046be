"""Log-mel spectrograms of clips, to compare clips or sets of them.

Shapes: B clips, K bands, M mel frames, N audio samples.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.conditions.mel import mel_of_blocks
from latentdiff.conditions.settings import MelConfig
from latentdiff.evaluation.sound import FLOOR_DB

BANDS = 32
WINDOW_SECONDS = 0.046
"""Length of the STFT window, rounded to a power of two samples; the hop is half of it."""
STEADY_DB = 3.0
"""Standard deviation over time in dB, RMS over the bands, below which a clip counts as steady.
Stationary noise has 1.4 (at 44.1 kHz) to 2.1 (at 8 kHz)."""


def config_for(sample_rate: int) -> MelConfig:
    """Spectrogram settings that cover all frequencies of audio at `sample_rate` Hz."""
    n_fft = 1 << round(np.log2(WINDOW_SECONDS * sample_rate))
    return MelConfig(sample_rate=sample_rate, n_fft=n_fft, hop=n_fft // 2, bands=BANDS)


def log_mels(clips: Iterable[NDArray[np.float32]], sample_rate: int) -> Tensor:
    """Clips [channels, N] of equal length -> [B, K, M] in dB, from FLOOR_DB (below it, differences
    are inaudible) to 0 (a full-scale sine)."""
    config = config_for(sample_rate)
    mels = [torch.from_numpy(mel_of_blocks([clip], config)) for clip in clips]
    # The features' 0..1 stand for -100..0 dB.
    return (100 * (torch.stack(mels) - 1)).clamp(min=FLOOR_DB)


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson correlation of the level changes over time of two log-mel spectrograms [K, M].

    Each band is centred on its own mean over time, so gain and spectrum do not count, only when
    each band gets louder and softer. 1: `b` changes exactly as `a` does; 0: silence, constant
    noise, or unrelated audio. None if `a` is too short or too steady to measure (see STEADY_DB).
    """
    x, y = (z.double() - z.double().mean(dim=-1, keepdim=True) for z in (a, b))
    if x.shape[-1] < 2 or x.square().mean().sqrt() < STEADY_DB:
        return None
    power = x.square().sum() * y.square().sum()
    # Nothing that does not change follows anything: silence gets 0, not 0 / 0.
    return float((x * y).sum() / power.sqrt()) if power > 0 else 0.0
