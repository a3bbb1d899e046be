"""The networks by the name in the settings. A new one is a file of its own and a line here.

A network's class declares its settings; see `layers.DenoisingNetwork`. Classes are imported when
they are asked for, because reading the settings must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentdiff.networks.layers import DenoisingNetwork


@dataclass(frozen=True)
class NetworkEntry:
    """Import location of a network."""

    place: str
    """`module.Class` in this package."""
    summary: str
    """One line for the settings reference."""

    def load(self) -> type[DenoisingNetwork]:
        """Import the network's class."""
        module, _, name = self.place.rpartition(".")
        network: type[DenoisingNetwork] = getattr(import_module(f"{__package__}.{module}"), name)
        return network


class Networks(Mapping[str, "type[DenoisingNetwork]"]):
    """Name -> class, imported on use."""

    def __init__(self, entries: Mapping[str, NetworkEntry]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> type[DenoisingNetwork]:
        return self._entries[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def summaries(self) -> dict[str, str]:
        """Name -> summary; imports nothing."""
        return {name: entry.summary for name, entry in self._entries.items()}


NETWORKS = Networks(
    {
        "diffwave": NetworkEntry("diffwave.DiffWave", "gated dilated convolutions with a skip sum"),
        "unet1d": NetworkEntry(
            "unet.UNet1d", "convolutions at several frame rates with skip connections"
        ),
        "unet2d": NetworkEntry(
            "unet.UNet2d", "the same on the latents as an image of channels by frames"
        ),
        "transformer": NetworkEntry("transformer.Transformer", "attention along time"),
        "tiny": NetworkEntry("tiny.Tiny", "three convolutions, for tests"),
    }
)
