"""Settings of the denoising network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from latentdiff.config import Section

NetworkName = Literal["diffwave", "unet1d", "unet2d", "transformer", "tiny"]
WIDTHS: dict[str, int] = {
    "diffwave": 64,
    "unet1d": 64,
    "unet2d": 24,
    "transformer": 128,
    "tiny": 64,
}
DEPTHS: dict[str, int] = {"diffwave": 10, "unet1d": 2, "unet2d": 2, "transformer": 4, "tiny": 1}


class NetworkConfig(Section):
    """The network inside the denoiser."""

    name: NetworkName = "diffwave"
    """diffwave: gated dilated convolutions with a skip sum. unet1d: convolutions at several frame
    rates with skips. unet2d: the same on the latents as an image of channels by frames.
    transformer: attention along time. tiny: three convolutions, for tests."""

    channels: int | None = Field(default=None, ge=8)
    """Width of the network (unets: of the finest level); a multiple of 8. null = what is about
    right for minutes of audio on a CPU: 64 (diffwave, unet1d, tiny), 24 (unet2d), 128
    (transformer). 128 to 512 suit a GPU and hours of audio."""

    blocks: int | None = Field(default=None, ge=1)
    """Residual blocks (unets: on each level, on the way down and again on the way up); null = 10
    (diffwave), 2 (unets), 4 (transformer). Not used by tiny."""

    kernel: int = Field(default=3, ge=1)
    """Frames a convolution spans; odd. transformer: of the depthwise convolution before each
    attention; 1 = none."""

    dilation_cycle: int = Field(default=5, ge=1)
    """Blocks after which the dilation starts again at 1; it doubles from block to block. With
    `kernel` it decides how many frames around a frame the network sees (diffwave only)."""

    multipliers: tuple[int, ...] = Field(default=(1, 2, 2), min_length=1)
    """Width of each level in units of `channels`, from the finest on; as many levels as numbers
    (unets only)."""

    factor: int = Field(default=2, ge=2)
    """By which frames (unet2d: channels too) get fewer from level to level (unets only)."""

    heads: int = Field(default=4, ge=1)
    """Heads of an attention; the width there must be a multiple of twice as many (transformer,
    and where `attention_every` is set)."""

    attention_every: int | None = Field(default=None, ge=1)
    """An attention follows every so many blocks (diffwave), or those of the coarsest level
    (unet1d); null = none. Not used by the others."""

    attention_reach: int | None = Field(default=64, ge=1)
    """Frames on either side that a frame attends to (unet1d: frames of the coarsest level); no
    more than half a training window, so that longer samples meet no distance that training did
    not. null = all frames (transformer, and where `attention_every` is set)."""

    expansion: int = Field(default=4, ge=1)
    """Hidden width of a feed-forward layer in units of `channels` (transformer only)."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which a channel is dropped inside a block in training; not used by tiny."""

    @property
    def width(self) -> int:
        """`channels`, or the network's own."""
        return WIDTHS[self.name] if self.channels is None else self.channels

    @property
    def depth(self) -> int:
        """`blocks`, or the network's own."""
        return DEPTHS[self.name] if self.blocks is None else self.blocks

    @property
    def attends(self) -> bool:
        """Whether there is an attention in it."""
        return self.name == "transformer" or (
            self.name in ("diffwave", "unet1d") and self.attention_every is not None
        )

    @model_validator(mode="after")
    def _shapes_fit(self) -> NetworkConfig:
        if self.kernel % 2 == 0:
            raise ValueError("kernel must be odd, so that frames stay where they are")
        if self.width % 8:
            raise ValueError("channels must be a multiple of 8")
        if min(self.multipliers) < 1:
            raise ValueError("multipliers must be 1 or more")
        attended = self.width * (self.multipliers[-1] if self.name == "unet1d" else 1)
        if self.attends and attended % (2 * self.heads):
            raise ValueError(
                f"heads ({self.heads}) must fit twice into the width of the attention ({attended})"
            )
        return self
