"""Build the network that the settings name; describe its size, cost and reach."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from latentdiff.networks.layers import UNCONDITIONAL, DenoisingNetwork
from latentdiff.networks.registry import NETWORKS
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition, ConditionSize


@dataclass(frozen=True)
class Description:
    """Facts about a network that help to decide whether to train it."""

    name: str
    parameters: int
    flops: float
    """Floating-point operations per frame of one call, a multiply-add counted as two. Matrix
    products and convolutions only, which are nearly all."""
    frames: int
    """Length at which they were counted; the cost of attention depends on it."""
    receptive_field: int | None
    """Latent frames that can affect one frame, at most; None: all of them."""
    frames_per_second: float | None = None
    """Latent frames per second; None: not known."""

    def __str__(self) -> str:
        return (
            f"{self.name}: {_short(self.parameters)} parameters, {_short(self.flops)}FLOP a frame "
            f"(in {self.frames} frames), sees {self._field}"
        )

    @property
    def _field(self) -> str:
        if self.receptive_field is None:
            return "all frames"
        seconds = ""
        if self.frames_per_second is not None:
            seconds = f" ({self.receptive_field / self.frames_per_second:.1f} s)"
        return f"{self.receptive_field} frames{seconds} around a frame"


def build(
    config: NetworkConfig, channels: int, conditions: Mapping[str, ConditionSize] = UNCONDITIONAL
) -> DenoisingNetwork:
    """A fresh network for C latent channels and these kinds of condition.

    Its weights follow torch's global seed; its output is zero until it is trained.
    """
    return NETWORKS[config.name](config, channels, conditions)


def describe(
    network: DenoisingNetwork, *, frames: int = 128, frames_per_second: float | None = None
) -> Description:
    """Size, cost in windows of `frames`, and receptive field of a network from `build`."""
    return Description(
        type(network).__name__.lower(),
        sum(p.numel() for p in network.parameters()),
        flops(network, frames) / frames,
        frames,
        network.receptive_field,
        frames_per_second,
    )


def flops(network: DenoisingNetwork, frames: int) -> int:
    """Floating-point operations of one call on one sample of `frames`; does not run the network."""
    shadow = deepcopy(network).to("meta")
    z = torch.zeros(1, network.channels, frames, device="meta")
    condition = Condition(
        {
            kind: torch.zeros(1, size.features, frames, device="meta")
            for kind, size in network.conditions.items()
            if size.features
        }
    )
    # Fused attention is not counted on every device; plain matrix products are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shadow(z, torch.zeros(1, device="meta"), condition)
    return int(counter.get_total_flops())


def _short(count: float) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
