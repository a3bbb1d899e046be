"""Three convolutions: the smallest network that learns something, for tests and first runs.

Shapes: B batch, C latent channels, K condition features, W network width, T frames.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from latentdiff.networks.layers import ConditionEncoder, NoiseEmbedding, zero_conv
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition


class Tiny(nn.Module):
    """[B, C, T] of any T -> [B, C, T]."""

    def __init__(
        self, config: NetworkConfig, channels: int, condition_features: int = 0, labels: int = 0
    ) -> None:
        super().__init__()
        width, kernel = config.channels, config.kernel
        self.receptive_field = 1 + 2 * (kernel - 1)
        """Frames; a condition reaches further."""
        self.first = nn.Conv1d(channels, width, kernel, padding=kernel // 2)
        self.second = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.third = zero_conv(width, channels)
        self.embedding = NoiseEmbedding(width, labels)
        self.encoder = ConditionEncoder(condition_features, width) if condition_features else None

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        level = self.embedding(logsnr, condition)[:, :, None]
        x = self.first(z) + level
        if self.encoder is not None:
            x = x + self.encoder(condition, z)
        return self.third(silu(self.second(silu(x)) * (1 + level)))
