"""Settings of the denoising network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from latentdiff.config import Section


class NetworkConfig(Section):
    """The network inside the denoiser."""

    name: Literal["diffwave", "tiny"] = "diffwave"
    """diffwave: gated dilated convolutions with a skip sum. tiny: three convolutions, for tests."""

    channels: int = Field(default=64, ge=8)
    """Width of the network; a multiple of 8. 64 learns fastest on a CPU or from minutes of audio;
    128 to 256 suit a GPU and hours of it."""

    blocks: int = Field(default=10, ge=1)
    """Residual blocks (diffwave only)."""

    dilation_cycle: int = Field(default=5, ge=1)
    """Blocks after which the dilation starts again at 1; it doubles from block to block. With
    `kernel` it decides how many frames around a frame the network sees (diffwave only)."""

    kernel: int = Field(default=3, ge=1)
    """Frames a convolution spans; odd."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which a channel is dropped inside a block in training (diffwave only)."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> NetworkConfig:
        if self.kernel % 2 == 0:
            raise ValueError("kernel must be odd, so that frames stay where they are")
        if self.channels % 8:
            raise ValueError("channels must be a multiple of 8")
        return self
