"""DiffWave on latent frames: gated dilated convolutions with summed skip outputs.

Kong et al. 2020, arXiv 2009.09761, fig. 2, with later improvements: normalisation before each
block, the noise level as scale and shift, a last layer initialised to zero, and optional attention
between blocks.

Shapes: B batch, C latent channels, K condition features, W network width, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from latentdiff.networks.attention import Attending
from latentdiff.networks.layers import UNCONDITIONAL, DenoisingNetwork, Probe, zero_init
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition, ConditionSize


class FrameConv(nn.Conv1d):
    """Conv1d on channels-last data: [B, T, W] -> [B, T, W'].

    Norms and products along W then need no copies, which saves an eighth of a training step on a
    CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1,):
            return linear(x, self.weight[:, :, 0], self.bias)
        image, weight = x.transpose(1, 2)[:, :, None], self.weight[:, :, None]
        padding, dilation = (0, int(self.padding[0])), (1, self.dilation[0])
        y = conv2d(image, weight, self.bias, padding=padding, dilation=dilation)
        return y[:, :, 0].transpose(1, 2)


class Gate(nn.Module):
    """tanh(value) * sigmoid(gate): [B, T, 2 W] -> [B, T, W]."""

    def forward(self, gates: Tensor) -> Tensor:
        """[B, T, 2 W] -> [B, T, W]."""
        value, gate = gates.chunk(2, dim=-1)
        return value.tanh() * gate.sigmoid()


class ResidualBlock(nn.Module):
    """One gated residual block: [B, T, W] -> residual stream and skip, each [B, T, W]."""

    probe = Probe("conv", "condition", gated=True)

    def __init__(self, config: NetworkConfig, dilation: int, conditioned: bool) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        padding = dilation * (config.kernel - 1) // 2
        self.conv = FrameConv(width, 2 * width, config.kernel, padding=padding, dilation=dilation)
        self.condition = FrameConv(width, 2 * width, 1) if conditioned else None
        self.gate = Gate()
        # Dropout1d drops whole channels of [B, W, T].
        self.dropout = nn.Dropout1d(config.dropout)
        self.out = FrameConv(width, 2 * width, 1)

    def forward(
        self, x: Tensor, scale: Tensor, shift: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`scale` and `shift` [B, 1, W] from the noise level, `condition` [B, T, W]."""
        gates = self.conv(torch.addcmul(shift, self.norm(x), 1 + scale))
        if self.condition is not None:
            gates = gates + self.condition(condition)
        gated = self.dropout(self.gate(gates).transpose(1, 2)).transpose(1, 2)
        residual, skip = self.out(gated).chunk(2, dim=-1)
        return x + residual, skip


class DiffWave(DenoisingNetwork):
    """[B, C, T] of any T -> [B, C, T]."""

    default_width, default_depth = 64, 10
    reads = frozenset(
        {"channels", "blocks", "kernel", "dilation_cycle", "dropout"}
        | {"heads", "attention_every", "attention_reach"}
    )

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        conditions: Mapping[str, ConditionSize] = UNCONDITIONAL,
    ) -> None:
        super().__init__(config, channels, conditions)
        width = config.width
        dilations = [2 ** (i % config.dilation_cycle) for i in range(config.depth)]
        # Only skips reach the output: an attention after the last block would have no effect.
        every, reach = config.attention_every or config.depth, config.attention_reach
        attended = range(every - 1, config.depth - 1, every)
        if not attended or reach is not None:
            attentions = 2 * len(attended) * (reach or 0)
            self.receptive_field = 1 + (config.kernel - 1) * sum(dilations) + attentions
        self.proj_in = FrameConv(channels, width, 1)
        self.modulation = nn.Linear(width, config.depth * 2 * width)
        conditioned = self.encoder is not None
        self.blocks = nn.ModuleList(ResidualBlock(config, d, conditioned) for d in dilations)
        self.attentions = nn.ModuleDict(
            {str(i): Attending(width, config.heads, reach) for i in attended}
        )
        self.proj_out = nn.Sequential(
            nn.LayerNorm(width),
            FrameConv(width, width, 1),
            nn.SiLU(),
            zero_init(FrameConv(width, channels, 1)),
        )

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """z [B, C, T] at log-SNR [B] -> [B, C, T]."""
        level = self.modulation(self.embedding(logsnr, condition))[:, None]
        scales_and_shifts = level.chunk(2 * len(self.blocks), dim=-1)
        encoded = self.encode(condition, z)
        if encoded is not None:
            encoded = encoded.transpose(1, 2)
        x, total = self.proj_in(z.transpose(1, 2)), 0.0
        for i, block in enumerate(self.blocks):
            scale, shift = scales_and_shifts[2 * i : 2 * i + 2]
            x, skip = block(x, scale, shift, encoded)
            total = total + skip
            if str(i) in self.attentions:
                x = self.attentions[str(i)](x)
        # Keeps the variance of the sum at that of one skip, as in the paper.
        out: Tensor = self.proj_out(total / math.sqrt(len(self.blocks)))
        return out.transpose(1, 2)
