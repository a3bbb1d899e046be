"""The network inside a codec: what a run of RAVE and an exported model have in common.

Shapes: B batch, D latent dimensions, N audio samples, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError

if TYPE_CHECKING:
    from rave import RAVE

SUPPORTED = ("VariationalEncoder", "WasserteinEncoder", "SphericalEncoder")
"""Class names of RAVE's encoders whose latents are continuous."""


class Net(Protocol):
    """What a run and an export have in common once they are loaded."""

    sample_rate: int
    hop: int
    latent_dim: int
    channels: int
    kind: str
    """Class name of RAVE's encoder."""
    noise_channels: int
    """Channels that RAVE fills with noise beside the latents (noise augmentation)."""
    noisy: bool
    """Whether the decoder draws noise."""

    def analyse(self, audio: Tensor) -> Tensor:
        """[B, channels, T * hop] -> what the encoder says, [B, D or 2 D, T]."""
        ...

    def synthesise(self, z: Tensor) -> Tensor:
        """[B, D + noise_channels, T] -> [B, channels, at least T * hop]."""
        ...


class RunNet:
    """A `rave.RAVE` stripped to what a codec needs."""

    def __init__(self, model: RAVE, device: torch.device) -> None:
        self.kind = type(model.encoder).__name__
        self._check(model)
        _fuse(model)
        model.discriminator = nn.Identity()
        self._model = model.requires_grad_(False).to(device)
        self.sample_rate, self.channels = int(model.sr), int(model.n_channels)
        self.latent_dim = int(model.latent_size)
        self.noise_channels = int(getattr(model.encoder, "noise_augmentation", 0))
        self.noisy = draws_noise(type(module).__name__ for module in model.decoder.modules())
        bands = model.pqmf.n_band if model.input_mode == "pqmf" else 1
        strides = [m.stride[0] for m in model.encoder.modules() if isinstance(m, nn.Conv1d)]
        self.hop = int(bands * math.prod(strides))

    def _check(self, model: RAVE) -> None:
        check_kind(self.kind)
        if model.input_mode == "mel":
            raise unsupported("its encoder takes a mel spectrogram, not sound")
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            raise unsupported("it has recurrent layers, whose memory has no end")

    def analyse(self, audio: Tensor) -> Tensor:
        return self._model.encode(audio)

    def synthesise(self, z: Tensor) -> Tensor:
        return self._model.decode(z)


def draws_noise(class_names: Iterable[str]) -> bool:
    """Whether a decoder made of these classes shapes noise of its own."""
    return any(name.startswith("NoiseGenerator") for name in class_names)


def check_kind(kind: str) -> None:
    """UserError for encoders whose latents a diffusion model cannot use."""
    if kind == "DiscreteEncoder":
        raise unsupported("its latents are discrete codes; diffusion needs continuous ones")
    if kind not in SUPPORTED:
        raise unsupported(f"its encoder is a {kind}; supported are {', '.join(SUPPORTED)}")


def unsupported(why: str) -> UserError:
    return UserError(
        "this RAVE is not supported",
        why=why,
        do_this="use a variational one, such as v1, v2 or v3.",
    )


def _fuse(model: Any) -> None:
    """Weight norm multiplied out once instead of at every call; speaker adaptation switched off."""
    for module in model.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
        elif type(module).__name__ == "AdaptiveInstanceNormalization":
            # A source or target voice learnt on stage: buffers for 64 rows, and not the codec's.
            module.reset_x()
            module.reset_y()
