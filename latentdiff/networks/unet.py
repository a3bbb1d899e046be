"""U-Nets: residual convolutions at several frame rates, with skip connections at each rate.

After Ronneberger et al. 2015, arXiv 1505.04597, with the residual blocks of Dhariwal and Nichol
2021, arXiv 2105.05233, normalised frame by frame.

Shapes: B batch, C latent channels, K condition features, T frames, W width of a level and W_0 of
the finest, ... the axes of the data: T (unet1d), or C and T (unet2d).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, pad, silu

from latentdiff.networks.attention import Attending
from latentdiff.networks.layers import UNCONDITIONAL, DenoisingNetwork, FrameNorm, Probe, zero_init
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition, ConditionSize

CONVOLUTIONS = 2
"""Successive convolutions per block; the receptive field depends on it."""
CONV: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
"""Transposed convolutions by the number of data axes."""


class UNetBlock(nn.Module):
    """Two convolutions on a residual connection: [B, W, ...] -> the same."""

    probe = Probe("norm_2", "condition")

    def __init__(self, config: NetworkConfig, axes: int, width: int, conditioned: bool) -> None:
        super().__init__()
        base, conv = config.width, CONV[axes]
        self.norm, self.norm_2 = FrameNorm(width), FrameNorm(width)
        self.conv = conv(width, width, config.kernel, padding=config.kernel // 2)
        self.conv_2 = zero_init(conv(width, width, config.kernel, padding=config.kernel // 2))
        self.level = nn.Linear(base, 2 * width)
        self.condition = nn.Conv1d(base, 2 * width, 1) if conditioned else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """`level` [B, W_0] from the noise embedding, `condition` [B, W_0, T]."""
        film = self.level(level)[:, :, None]
        if self.condition is not None:
            film = film + self.condition(condition)
        if x.dim() == 4:
            film = film[:, :, None]
        scale, shift = film.chunk(2, dim=1)
        y = self.conv(silu(self.norm(x)))
        y = self.dropout(silu(self.norm_2(y) * (1 + scale) + shift))
        out: Tensor = x + self.conv_2(y)
        return out


class UNetStage(nn.Module):
    """Blocks at one frame rate, some followed by an attention: [B, W, ...] -> the same."""

    def __init__(
        self,
        config: NetworkConfig,
        axes: int,
        width: int,
        conditioned: bool,
        attention_every: int | None = None,
    ) -> None:
        super().__init__()
        blocks, every = range(config.depth), attention_every or config.depth + 1
        self.blocks = nn.ModuleList(UNetBlock(config, axes, width, conditioned) for _ in blocks)
        self.attentions = nn.ModuleDict(
            {
                str(i): Attending(width, config.heads, config.attention_reach)
                for i in blocks[every - 1 :: every]
            }
        )

    def forward(self, x: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, level, condition)
            if str(i) in self.attentions:
                x = self.attentions[str(i)](x.transpose(1, 2)).transpose(1, 2)
        return x


class UNet(DenoisingNetwork):
    """[B, C, T] for any T -> [B, C, T]; padded to a multiple of the coarsest frame, then
    cropped."""

    axes: ClassVar[int]
    default_depth = 2
    reads = frozenset({"channels", "blocks", "kernel", "multipliers", "factor", "dropout"})

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        conditions: Mapping[str, ConditionSize] = UNCONDITIONAL,
    ) -> None:
        super().__init__(config, channels, conditions)
        axes, conditioned = self.axes, self.encoder is not None
        conv, planes = CONV[axes], channels if axes == 1 else 1
        widths = [config.width * multiplier for multiplier in config.multipliers]
        pairs = list(pairwise(widths))
        self.factor, self.multiple = config.factor, config.factor ** len(pairs)
        self.receptive_field = self._field(config)
        self.proj_in = conv(planes, widths[0], 1)
        # Neighbouring channels are not alike as pixels are: each gets an embedding of its own.
        rows = channels + -channels % self.multiple
        self.rows = nn.Parameter(0.1 * torch.randn(widths[0], rows, 1)) if axes == 2 else None
        self.down = nn.ModuleList(UNetStage(config, axes, w, conditioned) for w in widths[:-1])
        self.coarser = nn.ModuleList(conv(a, b, self.factor, stride=self.factor) for a, b in pairs)
        every = config.attention_every if self.attends(config) else None
        self.bottom = UNetStage(config, axes, widths[-1], conditioned, every)
        self.finer = nn.ModuleList(
            CONV_TRANSPOSE[axes](b, a, self.factor, stride=self.factor) for a, b in pairs
        )
        self.merge = nn.ModuleList(conv(2 * w, w, 1) for w in widths[:-1])
        self.up = nn.ModuleList(UNetStage(config, axes, w, conditioned) for w in widths[:-1])
        self.norm = FrameNorm(widths[0])
        self.proj_out = zero_init(conv(widths[0], planes, 1))

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """z [B, C, T] at log-SNR [B] -> [B, C, T]."""
        channels, frames = z.shape[1:]
        level, encoded = self.embedding(logsnr, condition), self.encode(condition, z)
        after = -frames % self.multiple
        if encoded is not None:
            encoded = pad(encoded, (0, after))
        if self.rows is None:
            x = self.proj_in(pad(z, (0, after)))
        else:
            x = self.proj_in(pad(z, (0, after, 0, -channels % self.multiple))[:, None]) + self.rows
        y: Tensor = self.proj_out(silu(self.norm(self.levels(x, level, encoded))))
        return (y if self.rows is None else y[:, 0, :channels])[..., :frames]

    def levels(self, x: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """[B, W_0, ...], noise embedding [B, W_0], condition [B, W_0, T] -> [B, W_0, ...]."""
        skips, conditions = [], []
        for blocks, coarser in zip(self.down, self.coarser, strict=True):
            skips.append(blocks(x, level, condition))
            conditions.append(condition)
            x = coarser(skips[-1])
            condition = None if condition is None else avg_pool1d(condition, self.factor)
        x = self.bottom(x, level, condition)
        for i in reversed(range(len(skips))):
            x = self.merge[i](torch.cat([self.finer[i](x), skips[i]], dim=1))
            x = self.up[i](x, level, conditions[i])
        return x

    @classmethod
    def attention_width(cls, config: NetworkConfig) -> int:
        """Width of the coarsest level, which has the attention."""
        return config.width * config.multipliers[-1]

    @classmethod
    def _field(cls, config: NetworkConfig) -> int | None:
        """The receptive field, which differs with a frame's place in its coarsest frame: the most.

        Follows the first and last frame that matter down to the coarsest level and back.
        """
        steps, factor = len(config.multipliers) - 1, config.factor
        blocks = bottom = config.depth * CONVOLUTIONS * (config.kernel // 2)
        if cls.attends(config) and config.attention_every is not None:
            attentions = config.depth // config.attention_every
            if attentions and config.attention_reach is None:
                return None
            bottom += attentions * (config.attention_reach or 0)

        def seen(frame: int) -> int:
            first = last = frame
            for _ in range(steps):
                first, last = (first - blocks) // factor, (last + blocks) // factor
            first, last = first - bottom, last + bottom
            for _ in range(steps):
                first, last = first * factor - blocks, last * factor + factor - 1 + blocks
            return last - first + 1

        return max(seen(frame) for frame in range(factor**steps))


class UNet1d(UNet):
    """Latents as frames of C channels."""

    axes = 1
    default_width = 64
    reads = UNet.reads | {"heads", "attention_every", "attention_reach"}


class UNet2d(UNet):
    """Latents as an image of C by T pixels, of one channel."""

    axes = 2
    default_width = 24
