"""What the networks are built from.

Shapes: B batch, C latent channels, E embedding, K condition features, W network width, T frames.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from latentdiff.specs import Condition

FREQUENCIES = 32
_RENAMED = {"inlet": "proj_in", "outlet": "proj_out"}
Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv1d | nn.Conv2d)


class FrameNorm(nn.LayerNorm):
    """LayerNorm over the channels of each frame: [B, W, T] or [B, W, C, T] -> the same.

    Frames do not see each other's statistics, so a network means the same on any length.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class NoiseEmbedding(nn.Module):
    """log-SNR [B] (and label, where there are any) -> [B, E]."""

    frequencies: Tensor

    def __init__(self, width: int, labels: int = 0) -> None:
        super().__init__()
        # Radians per unit of log-SNR: from slower than the whole axis to finer than any step.
        frequencies = torch.logspace(-1.5, 0.75, FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        # The last row stands for "no label".
        self.labels = nn.Embedding(labels + 1, 2 * FREQUENCIES) if labels else None

    def forward(self, logsnr: Tensor, condition: Condition) -> Tensor:
        angle = logsnr[:, None].to(self.frequencies) * self.frequencies
        features = torch.cat([angle.sin(), angle.cos()], dim=1)
        if self.labels is not None:
            null = torch.full_like(logsnr, self.labels.num_embeddings - 1, dtype=torch.int64)
            label = null if condition.label is None else condition.label
            if condition.given is not None:
                label = torch.where(condition.given, label, null)
            features = features + self.labels(label)
        return self.layers(features)


class ConditionEncoder(nn.Module):
    """Condition features [B, K, T] -> [B, W, T], or a learned constant where they are not given."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(features, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(width, width, 3, padding=1),
            FrameNorm(width),
        )
        self.null = nn.Parameter(torch.zeros(width, 1))

    def forward(self, condition: Condition, z: Tensor) -> Tensor:
        """`z` [B, C, T] only tells the shape."""
        null = self.null.expand(len(z), -1, z.shape[-1])
        if condition.features is None:
            return null
        if condition.features.shape[-1] != z.shape[-1]:
            raise ValueError(
                f"condition features of {condition.features.shape[-1]} frames for latents of "
                f"{z.shape[-1]}; resample them along time first"
            )
        encoded = self.layers(condition.features)
        if condition.given is None:
            return encoded
        return torch.where(condition.given[:, None, None], encoded, null)


class DenoisingNetwork(nn.Module):
    """What every network has: [B, C, T] of any T, log-SNR [B] and a condition -> [B, C, T]."""

    receptive_field: int | None = None
    """Frames that can decide one frame, at most; None: all of them. A condition reaches two
    further on either side."""

    def __init__(self, width: int, channels: int, condition_features: int, labels: int) -> None:
        super().__init__()
        self.channels, self.condition_features = channels, condition_features
        self.embedding = NoiseEmbedding(width, labels)
        self.encoder = ConditionEncoder(condition_features, width) if condition_features else None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # Version 0.1 called the first and last projection otherwise; its checkpoints stay readable.
        for key in [key for key in state_dict if key.startswith(prefix)]:
            renamed = ".".join(_RENAMED.get(part, part) for part in key.split("."))
            if renamed != key:
                state_dict[renamed] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def encode(self, condition: Condition, z: Tensor) -> Tensor | None:
        """Condition features as [B, W, T]; None where the network was built without any."""
        return None if self.encoder is None else self.encoder(condition, z)


def zero_init(layer: Layer) -> Layer:
    """The same layer, putting out zero until it is trained."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
