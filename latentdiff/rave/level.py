"""An extra loss of RAVE's training: the level of each frequency band.

RAVE's spectral distances do not mind a quiet decoder. Where it cannot tell which bins a sound
fills, the best magnitude by their logarithmic term is the median over the bins, and most bins
between harmonics are empty: so codecs begin many decibels too quiet, most of all above 1 kHz, and
take long to get louder. Here the energy of whole crops is compared, band by band, which says
nothing about where within a band it lies.

Shapes: R rows of samples (batch x channels), N samples, F frequencies, K bands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rave import RAVE

FRAME = 512
"""Samples per frame; frames overlap by half."""
BANDS = 24
"""Bands up to the Nyquist frequency, equally wide on the ERB scale, one bin or more each."""
_FLOOR = 1e-6
"""Bands weaker than this share of a row's energy hardly count: 60 dB below it."""
_SILENCE = 1e-4
"""Energy added to every band, so that rows of silence count for nothing."""


def add_level_loss(model: RAVE, weight: float) -> None:
    """Add `weight` times `level_distance` to what the model's training minimises, for good.

    Validation keeps RAVE's own distance.
    """
    window = torch.hann_window(FRAME)
    bands = erb_bands(int(model.sr))

    def hook(
        module: nn.Module, audio: tuple[Tensor, Tensor], distances: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if not module.training:
            return distances
        device = audio[0].device
        value = level_distance(*audio, window.to(device), bands.to(device))
        return {**distances, "level": weight * value}

    model.audio_distance.register_forward_hook(hook)


def level_distance(target: Tensor, prediction: Tensor, window: Tensor, bands: Tensor) -> Tensor:
    """Mean over rows and bands of |ln(energy of the prediction / energy of the target)|.

    `target`, `prediction`: [B, channels, N]; `window` [FRAME]; `bands` [F, K] of zeros and ones.
    """
    theirs = _energies(target.detach(), window) @ bands
    ours = _energies(prediction, window) @ bands
    floor = _FLOOR * theirs.sum(-1, keepdim=True) + _SILENCE
    return ((ours + floor) / (theirs + floor)).log().abs().mean()


def erb_bands(sample_rate: int) -> Tensor:
    """[F, K]: 1 where a frequency is in a band. Bands without a bin are left out.

    The ERB-rate scale is that of Glasberg and Moore (1990).
    """
    frequencies = torch.arange(FRAME // 2 + 1) * sample_rate / FRAME
    rates = 21.4 * torch.log10(1 + 0.00437 * frequencies)
    number = (BANDS * rates / rates[-1]).long().clamp(max=BANDS - 1)
    bands = torch.zeros(len(frequencies), BANDS)
    bands[torch.arange(len(frequencies)), number] = 1
    return bands[:, bands.any(0)]


def _energies(audio: Tensor, window: Tensor) -> Tensor:
    """[B, channels, N] -> mean energy of each frequency [R, F]."""
    frames = audio.flatten(0, 1).float().unfold(-1, FRAME, FRAME // 2) * window
    return torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1).mean(1)
