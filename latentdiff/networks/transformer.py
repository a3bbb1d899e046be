"""A transformer along time, conditioned on the noise level by adaLN-zero.

Peebles and Xie 2022, arXiv 2212.09748, fig. 3 (adaLN-Zero), with rotary positions, a short
depthwise convolution before each attention, and the condition as scale and shift frame by frame.

Shapes: B batch, C latent channels, K condition features, T frames, W network width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from latentdiff.networks.attention import Attention
from latentdiff.networks.layers import UNCONDITIONAL, DenoisingNetwork, Probe, zero_init
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition, ConditionSize

MODULATIONS = 6
"""Modulation vectors per block: scale, shift and gate for attention and for the feed-forward
layer."""


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each with a gate on the residual: [B, T, W] -> the same."""

    probe = Probe("first", "condition")

    def __init__(self, config: NetworkConfig, conditioned: bool) -> None:
        super().__init__()
        width, kernel = config.width, config.kernel
        self.first = nn.LayerNorm(width, elementwise_affine=False)
        self.second = nn.LayerNorm(width, elementwise_affine=False)
        self.condition = nn.Linear(width, 2 * width) if conditioned else None
        self.local = (
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
            if kernel > 1
            else None
        )
        self.attention = Attention(width, config.heads, config.attention_reach)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.expansion * width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.expansion * width, width),
        )

    def forward(self, x: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """`level` [B, 1, 6 W] from the noise embedding, `condition` [B, T, W]."""
        scale, shift, gate, scale_2, shift_2, gate_2 = level.chunk(MODULATIONS, dim=-1)
        if self.condition is not None:
            scale_c, shift_c = self.condition(condition).chunk(2, dim=-1)
            scale, shift = scale + scale_c, shift + shift_c
        y = self.first(x) * (1 + scale) + shift
        if self.local is not None:
            y = y + self.local(y.transpose(1, 2)).transpose(1, 2)
        x = x + gate * self.dropout(self.attention(y))
        out: Tensor = x + gate_2 * self.feed_forward(self.second(x) * (1 + scale_2) + shift_2)
        return out


class Transformer(DenoisingNetwork):
    """[B, C, T] of any T -> [B, C, T]."""

    default_width, default_depth = 128, 4
    reads = frozenset(
        {"channels", "blocks", "kernel", "heads", "attention_reach", "expansion", "dropout"}
    )
    attention = True

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        conditions: Mapping[str, ConditionSize] = UNCONDITIONAL,
    ) -> None:
        super().__init__(config, channels, conditions)
        width, depth = config.width, config.depth
        reach = config.attention_reach
        if reach is not None:
            self.receptive_field = 1 + 2 * depth * (reach + config.kernel // 2)
        self.proj_in = nn.Linear(channels, width)
        self.modulation = zero_init(nn.Linear(width, depth * MODULATIONS * width))
        conditioned = self.encoder is not None
        self.blocks = nn.ModuleList(TransformerBlock(config, conditioned) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.proj_out = zero_init(nn.Linear(width, channels))

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """z [B, C, T] at log-SNR [B] -> [B, C, T]."""
        encoded = self.encode(condition, z)
        if encoded is not None:
            encoded = encoded.transpose(1, 2)
        levels = self.modulation(self.embedding(logsnr, condition))[:, None]
        x = self.proj_in(z.transpose(1, 2))
        for block, level in zip(self.blocks, levels.chunk(len(self.blocks), -1), strict=True):
            x = block(x, level, encoded)
        out: Tensor = self.proj_out(self.norm(x))
        return out.transpose(1, 2)
