"""How strong samples are, by latent channel.

Shapes: B samples, C latent channels, T latent frames.
"""

from __future__ import annotations

import torch
from torch import Tensor


class SpreadMeter:
    """RMS of each channel over all samples, relative to the training latents."""

    def __init__(self, variance: Tensor) -> None:
        """`variance` [C] of the training latents."""
        self._variance = variance.double().cpu()
        self._squares = torch.zeros_like(self._variance)
        self._frames = 0

    def add(self, x: Tensor) -> None:
        """Final latents [B, C, T]."""
        self._squares += x.double().square().sum(dim=(0, 2)).cpu()
        self._frames += len(x) * x.shape[-1]

    def spread(self) -> Tensor:
        """[C], 1 where samples are as strong as the training latents."""
        return (self._squares / self._frames / self._variance).sqrt()
