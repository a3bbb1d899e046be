"""Three convolutions: the smallest network that learns anything, for tests and first runs.

Shapes: B batch, C latent channels, K condition features, W network width, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import silu

from latentdiff.networks.layers import UNCONDITIONAL, DenoisingNetwork, Probe, zero_init
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition, ConditionSize


class Tiny(DenoisingNetwork):
    """[B, C, T] of any T -> [B, C, T]."""

    default_width = 64
    reads = frozenset({"channels", "kernel"})
    probe = Probe("first", "encoder")

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        conditions: Mapping[str, ConditionSize] = UNCONDITIONAL,
    ) -> None:
        super().__init__(config, channels, conditions)
        width, kernel = config.width, config.kernel
        self.receptive_field = 1 + 2 * (kernel - 1)
        self.first = nn.Conv1d(channels, width, kernel, padding=kernel // 2)
        self.second = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.third = zero_init(nn.Conv1d(width, channels, 1))

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """z [B, C, T] at log-SNR [B] -> [B, C, T]."""
        level = self.embedding(logsnr, condition)[:, :, None]
        encoded = self.encode(condition, z)
        x = self.first(z) + level
        if encoded is not None:
            x = x + encoded
        out: Tensor = self.third(silu(self.second(silu(x)) * (1 + level)))
        return out
