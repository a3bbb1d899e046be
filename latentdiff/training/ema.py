"""Exponential moving average (EMA) of weights, with a half-life in windows seen.

As in Karras et al. 2024 (arXiv:2312.02696, appendix), the average is short at the start: the
half-life never exceeds `RAMP` of the windows seen so far.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

RAMP = 0.05
"""Longest half-life as a share of the windows seen."""


class Ema:
    """A copy of a network whose weights are a moving average of the network's."""

    def __init__(self, network: nn.Module, halflife: float | None = None) -> None:
        self.module = copy.deepcopy(network).eval().requires_grad_(False)
        self.halflife = halflife
        """Windows; None = given at each update."""

    @torch.no_grad()
    def update(
        self, network: nn.Module, batch: int, seen: int, halflife: float = float("inf")
    ) -> None:
        """Average in `network` after a step on `batch` windows, the last of `seen` in all.

        `halflife` (windows) applies if the average has none of its own.
        """
        # A half-life in windows, not steps, means the same at any batch size: after `halflife`
        # windows the old weights count half. Its cap, a share of those seen, lets the random
        # weights of the start fade: with a fixed half-life they would dominate the first ones.
        decay = 0.5 ** (batch / min(self.halflife or halflife, RAMP * seen))
        torch._foreach_lerp_(
            list(self.module.parameters()), list(network.parameters()), 1.0 - decay
        )
        # Buffers (such as running statistics) are averages already, or constants.
        for mine, theirs in zip(self.module.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
