"""Building blocks that the networks share.

Shapes: B batch, C latent channels, E embedding, K condition features, W network width, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from latentdiff.specs import Condition, ConditionSize

if TYPE_CHECKING:
    from latentdiff.networks.settings import NetworkConfig

FREQUENCIES = 32
"""Sines and cosines of the noise level, each."""
_RENAMED = {"inlet": "proj_in", "outlet": "proj_out"}
"""Modules by their names in version 0.1 -> today's."""
UNCONDITIONAL: Mapping[str, ConditionSize] = MappingProxyType({})
"""The conditions of a network without any."""
Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv1d | nn.Conv2d)


class FrameNorm(nn.LayerNorm):
    """LayerNorm over the channels of each frame: [B, W, T] or [B, W, C, T] -> the same.

    No statistics are taken over frames, so a network behaves alike at any length.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, T] or [B, W, C, T] -> the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class NoiseEmbedding(nn.Module):
    """log-SNR [B], and the categories of the condition if there are any -> [B, E]."""

    frequencies: Tensor

    def __init__(self, width: int, categories: Mapping[str, int]) -> None:
        """`categories`: kind -> number of values."""
        super().__init__()
        # Radians per unit of log-SNR. The slowest, 0.03, turns once over 200 units, wider than the
        # axis; the fastest, 5.6, tells levels a tenth apart.
        frequencies = torch.logspace(-1.5, 0.75, FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        # The last row means "not given"; guidance needs it.
        self.categories = nn.ModuleDict(
            {kind: nn.Embedding(count + 1, 2 * FREQUENCIES) for kind, count in categories.items()}
        )

    def forward(self, logsnr: Tensor, condition: Condition) -> Tensor:
        """log-SNR [B] and categories -> [B, E]."""
        angle = logsnr[:, None].to(self.frequencies) * self.frequencies
        features = torch.cat([angle.sin(), angle.cos()], dim=1)
        for kind, embedding in self.categories.items():
            assert isinstance(embedding, nn.Embedding)
            null = torch.full_like(logsnr, embedding.num_embeddings - 1, dtype=torch.int64)
            index = condition.values.get(kind, null)
            if kind in condition.given:
                index = torch.where(condition.given[kind], index, null)
            features = features + embedding(index)
        embedded: Tensor = self.layers(features)
        return embedded


class FeatureEncoder(nn.Module):
    """Features of one kind [B, K, T] -> [B, W, T]; a learned constant if they are not given."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(features, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(width, width, 3, padding=1),
            FrameNorm(width),
        )
        self.null = nn.Parameter(torch.zeros(width, 1))

    def forward(self, features: Tensor | None, given: Tensor | None, z: Tensor) -> Tensor:
        """[B, W, T]; `given` as in `Condition`. Of `z` [B, C, T] only the shape matters.

        Raises ValueError if the features have another number of frames.
        """
        null = self.null.expand(len(z), -1, z.shape[-1])
        if features is None:
            return null
        if features.shape[-1] != z.shape[-1]:
            raise ValueError(
                f"condition features of {features.shape[-1]} frames for latents of "
                f"{z.shape[-1]}; resample them along time first"
            )
        encoded: Tensor = self.layers(features)
        return encoded if given is None else torch.where(given[:, None, None], encoded, null)


class ConditionEncoder(nn.Module):
    """The sum [B, W, T] of all encoded features of a condition."""

    def __init__(self, features: Mapping[str, int], width: int) -> None:
        """`features`: kind -> K."""
        super().__init__()
        self.kinds = nn.ModuleDict({k: FeatureEncoder(size, width) for k, size in features.items()})

    def forward(self, condition: Condition, z: Tensor) -> Tensor:
        """[B, W, T]. Of `z` [B, C, T] only the shape matters."""
        values, given = condition.values, condition.given
        encoded = [
            encoder(values.get(kind), given.get(kind), z) for kind, encoder in self.kinds.items()
        ]
        return torch.stack(encoded).sum(dim=0) if len(encoded) > 1 else encoded[0]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # Before there were several kinds, the only one had no name.
        for key in [
            key for key in state_dict if key.startswith((f"{prefix}layers.", f"{prefix}null"))
        ]:
            (only,) = self.kinds
            state_dict[f"{prefix}kinds.{only}.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)


@dataclass(frozen=True)
class Probe:
    """Where to measure in a block how strongly the condition acts; see `evaluation.activations`."""

    signal: str
    """Attribute of the module that makes the signal to which the condition is added."""
    condition: str
    """Attribute of the module that makes the condition; None in networks without a condition."""
    gated: bool = False
    """Whether the second half of that sum goes through a sigmoid."""


class DenoisingNetwork(nn.Module):
    """Base class of all networks: [B, C, T] for any T, log-SNR [B] and a condition -> [B, C, T]."""

    default_width: ClassVar[int]
    """Width if `network.channels` is null; a multiple of 8, and of twice the default `heads`."""
    default_depth: ClassVar[int] = 1
    """Depth if `network.blocks` is null."""
    reads: ClassVar[frozenset[str]]
    """The fields of `NetworkConfig` that the network reads, except `name`."""
    attention: ClassVar[bool] = False
    """Whether there always is an attention; networks that read `attention_every` have one where it
    is set."""

    receptive_field: int | None = None
    """Frames that can affect one frame, at most; None: all of them. A condition reaches two
    further on either side."""

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        conditions: Mapping[str, ConditionSize] = UNCONDITIONAL,
    ) -> None:
        """`channels`: C; `conditions`: kind -> size."""
        super().__init__()
        width = config.width
        self.channels, self.conditions = channels, dict(conditions)
        features = {kind: size.features for kind, size in conditions.items() if size.features}
        categories = {kind: size.categories for kind, size in conditions.items() if size.categories}
        self.embedding = NoiseEmbedding(width, categories)
        self.encoder = ConditionEncoder(features, width) if features else None

    @classmethod
    def attends(cls, config: NetworkConfig) -> bool:
        """Whether the network has an attention with these settings."""
        optional = "attention_every" in cls.reads and config.attention_every is not None
        return cls.attention or optional

    @classmethod
    def read_with(cls, config: NetworkConfig) -> frozenset[str]:
        """The fields of `config` that matter to this network, given the others."""
        return cls.reads if cls.attends(config) else cls.reads - {"heads", "attention_reach"}

    @classmethod
    def attention_width(cls, config: NetworkConfig) -> int:
        """Width where it attends."""
        return config.width

    @classmethod
    def check(cls, config: NetworkConfig) -> None:
        """Raises ValueError for settings that are valid one by one but do not fit together."""
        width = cls.attention_width(config)
        if cls.attends(config) and width % (2 * config.heads):
            raise ValueError(
                f"heads ({config.heads}) must fit twice into the width of the attention ({width})"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # Version 0.1 had other names for these; its checkpoints must still load.
        for key in [key for key in state_dict if key.startswith(prefix)]:
            renamed = ".".join(_RENAMED.get(part, part) for part in key.split("."))
            renamed = renamed.replace("embedding.labels.", "embedding.categories.label.")
            if renamed != key:
                state_dict[renamed] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def encode(self, condition: Condition, z: Tensor) -> Tensor | None:
        """Condition features as [B, W, T]; None if the network was built without any."""
        return None if self.encoder is None else self.encoder(condition, z)


def zero_init(layer: Layer) -> Layer:
    """The same layer, with weights and bias set to zero."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
