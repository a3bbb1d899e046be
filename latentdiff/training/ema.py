"""Exponential moving average of weights, with a half-life in windows seen.

The average at the start is kept young, as in Karras et al. 2024 (arXiv:2312.02696, appendix):
the half-life never exceeds `RAMP` of the windows seen so far.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

RAMP = 0.05
"""Longest half-life as a share of the windows seen."""


class Ema:
    """A copy of a network whose weights follow the network's own slowly."""

    def __init__(self, network: nn.Module, halflife: float | None = None) -> None:
        self.module = copy.deepcopy(network).eval().requires_grad_(False)
        self.halflife = halflife
        """Windows; None = given at each update."""

    @torch.no_grad()
    def update(
        self, network: nn.Module, batch: int, seen: int, halflife: float = float("inf")
    ) -> None:
        """Follow `network` after a step on `batch` windows, the last of `seen`.

        `halflife` counts where the average was made without one.
        """
        decay = 0.5 ** (batch / min(self.halflife or halflife, RAMP * seen))
        torch._foreach_lerp_(
            list(self.module.parameters()), list(network.parameters()), 1.0 - decay
        )
        for mine, theirs in zip(self.module.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
