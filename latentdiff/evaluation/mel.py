"""Log-mel spectrograms of clips of sound, to compare sets of them.

Shapes: B clips, K bands, M mel frames, N audio samples.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from latentdiff.conditions.mel import mel_of_blocks
from latentdiff.conditions.settings import MelConfig
from latentdiff.evaluation.sound import FLOOR_DB

BANDS = 32
WINDOW_SECONDS = 0.046
"""Of the STFT; the power of two nearest to it, and half of it from frame to frame."""


def config_for(sample_rate: int) -> MelConfig:
    """The spectrogram for sound of `sample_rate` Hz, all of its band."""
    n_fft = 1 << round(np.log2(WINDOW_SECONDS * sample_rate))
    return MelConfig(sample_rate=sample_rate, n_fft=n_fft, hop=n_fft // 2, bands=BANDS)


def log_mels(clips: Iterable[np.ndarray], sample_rate: int) -> Tensor:
    """Clips [channels, N] of one length -> [B, K, M] in dB; FLOOR_DB is the least (0 dB: a sine
    of full scale), so that what nobody hears makes no difference."""
    config = config_for(sample_rate)
    mels = [torch.from_numpy(mel_of_blocks([clip], config)) for clip in clips]
    # 0..1 stands for 100 dB up to full scale.
    return (100 * (torch.stack(mels) - 1)).clamp(min=FLOOR_DB)
