"""Settings of the denoising network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from latentdiff.config import Section, catalogue
from latentdiff.networks.registry import NETWORKS

if TYPE_CHECKING:
    NetworkName = str
else:
    # The registry is the only list of names; a type checker cannot look into it.
    NetworkName = Literal[tuple(NETWORKS)]


class NetworkConfig(Section):
    """The network inside the denoiser. Each network reads some of these settings only."""

    method_key = "name"

    name: NetworkName = Field(default="diffwave", description=catalogue(NETWORKS.summaries))

    channels: int | None = Field(default=None, ge=8)
    """Width of the network (U-Nets: of the finest level); a multiple of 8. null: the network's own,
    24 to 128, about right for minutes of audio on a CPU. 128 to 512 suit a GPU and hours of audio.
    """

    blocks: int | None = Field(default=None, ge=1)
    """Residual blocks (U-Nets: on each level, on the way down and again on the way up). null: the
    network's own number."""

    kernel: int = Field(default=3, ge=1)
    """Frames that a convolution spans; odd. transformer: of the depthwise convolution before each
    attention; 1 = none."""

    dilation_cycle: int = Field(default=5, ge=1)
    """Blocks after which the dilation starts again at 1; it doubles from block to block. With
    `kernel` it decides how many frames around a frame the network sees."""

    multipliers: tuple[int, ...] = Field(default=(1, 2, 2), min_length=1)
    """Width of each level of a U-Net in units of `channels`, from the finest on; there are as many
    levels as numbers."""

    factor: int = Field(default=2, ge=2)
    """Frames of a U-Net's level that become one frame of the next (unet2d: channels too)."""

    heads: int = Field(default=4, ge=1)
    """Attention heads; the width must be a multiple of twice as many."""

    attention_every: int | None = Field(default=None, ge=1)
    """Number of blocks between attention layers (unet1d: counted at the coarsest level). null:
    none."""

    attention_reach: int | None = Field(default=64, ge=1)
    """Frames on either side that a frame attends to (unet1d: frames of the coarsest level); at most
    half a training window, so that longer samples contain no distance that training did not. null:
    all frames."""

    expansion: int = Field(default=4, ge=1)
    """Hidden width of a transformer's feed-forward layers in units of `channels`."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which a channel is dropped inside a block during training."""

    @property
    def width(self) -> int:
        """`channels`, or the network's own."""
        return NETWORKS[self.name].default_width if self.channels is None else self.channels

    @property
    def depth(self) -> int:
        """`blocks`, or the network's own."""
        return NETWORKS[self.name].default_depth if self.blocks is None else self.blocks

    def read_by_method(self) -> frozenset[str]:
        return NETWORKS[self.name].read_with(self)

    @model_validator(mode="after")
    def _shapes_fit(self) -> NetworkConfig:
        if self.kernel % 2 == 0:
            raise ValueError("kernel must be odd, so that frames stay where they are")
        if self.channels is not None and self.channels % 8:
            raise ValueError("channels must be a multiple of 8")
        if min(self.multipliers) < 1:
            raise ValueError("multipliers must be 1 or more")
        # Every network's own defaults fit; asking the class would import torch.
        if self.model_fields_set - {"name"}:
            NETWORKS[self.name].check(self)
        return self
