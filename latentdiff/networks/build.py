"""The network that a config names, and what it is in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from latentdiff.networks.diffwave import DiffWave
from latentdiff.networks.settings import NetworkConfig
from latentdiff.networks.tiny import Tiny

NETWORKS: dict[str, type[DiffWave] | type[Tiny]] = {"diffwave": DiffWave, "tiny": Tiny}


@dataclass(frozen=True)
class Description:
    """What a user wants to know of a network before it runs for a night."""

    name: str
    parameters: int
    receptive_field: int
    """Latent frames that decide one frame."""

    def __str__(self) -> str:
        count = self.parameters
        size = f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
        return f"{self.name}: {size} parameters, sees {self.receptive_field} frames around a frame"


def build(
    config: NetworkConfig, channels: int, condition_features: int = 0, labels: int = 0
) -> nn.Module:
    """A fresh network for C latent channels, K condition features (0: none), so many labels.

    Its weights follow torch's global seed; its output is zero until it is trained.
    """
    return NETWORKS[config.name](config, channels, condition_features, labels)


def describe(network: nn.Module) -> Description:
    """Name, parameters, receptive field of a network that `build` made."""
    assert isinstance(network, DiffWave | Tiny)
    return Description(
        type(network).__name__.lower(),
        sum(p.numel() for p in network.parameters()),
        network.receptive_field,
    )
