"""The network inside a codec: what `RaveCodec` needs of it, which ones it refuses, and RAVE as one.

Shapes: B batch, D latent dimensions, N audio samples, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError

if TYPE_CHECKING:
    from rave import RAVE

SUPPORTED = ("VariationalEncoder", "WasserteinEncoder", "SphericalEncoder")
"""Class names (RAVE's spelling) of encoders with continuous latents."""


class CodecNet(Protocol):
    """A loaded model, from a run (`RunNet`) or from an export (`exported.ExportNet`)."""

    sample_rate: int
    """Hz."""
    channels: int
    """Audio channels."""
    hop: int
    """Audio samples per latent frame."""
    latent_dim: int
    """D."""
    kind: str
    """Class name of RAVE's encoder, one of SUPPORTED."""
    noise_channels: int
    """Extra latent channels that RAVE fills with noise (noise augmentation)."""
    noisy: bool
    """Whether the decoder draws noise."""

    def analyse(self, audio: Tensor) -> Tensor:
        """[B, channels, T * hop] -> the encoder's output, [B, 2 D, T] if variational, else D."""
        ...

    def synthesise(self, z: Tensor) -> Tensor:
        """[B, D + noise_channels, T] -> audio [B, channels, at least T * hop]."""
        ...


class RunNet:
    """A `rave.RAVE` reduced to its codec. It takes the model over and changes it.

    Raises UserError where the model is not supported.
    """

    def __init__(self, model: RAVE, device: torch.device) -> None:
        self.kind = type(model.encoder).__name__
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        check_supported(self.kind, model.input_mode, recurrent)
        _fuse(model)
        model.discriminator = nn.Identity()
        self._model = model.requires_grad_(False).to(device)
        self.sample_rate, self.channels = int(model.sr), int(model.n_channels)
        self.latent_dim = int(model.latent_size)
        self.noise_channels = int(getattr(model.encoder, "noise_augmentation", 0))
        self.noisy = draws_noise(type(module).__name__ for module in model.decoder.modules())
        self.hop = hop_of(model)

    def analyse(self, audio: Tensor) -> Tensor:
        """See `CodecNet`."""
        encoded: Tensor = self._model.encode(audio)
        return encoded

    def synthesise(self, z: Tensor) -> Tensor:
        """See `CodecNet`."""
        audio: Tensor = self._model.decode(z)
        return audio


def hop_of(model: RAVE) -> int:
    """Audio samples per latent frame: what the filter bank and the strided layers divide by."""
    bands = model.pqmf.n_band if model.input_mode == "pqmf" else 1
    strides = [m.stride[0] for m in model.encoder.modules() if isinstance(m, nn.Conv1d)]
    return int(bands * math.prod(strides))


def draws_noise(class_names: Iterable[str]) -> bool:
    """Whether a decoder with these classes has a noise generator."""
    return any(name.startswith("NoiseGenerator") for name in class_names)


def check_supported(kind: str, input_mode: str, recurrent: bool) -> None:
    """Raise UserError for models with latents that a diffusion model cannot use.

    `kind`: class name of the encoder; `input_mode`: RAVE's own setting; `recurrent`: whether it has
    recurrent layers.
    """
    if kind == "DiscreteEncoder":
        raise unsupported("its latents are discrete codes; diffusion needs continuous ones")
    if kind not in SUPPORTED:
        raise unsupported(f"its encoder is a {kind}; supported are {', '.join(SUPPORTED)}")
    if input_mode == "mel":
        raise unsupported("its encoder takes a mel spectrogram, not sound")
    if recurrent:
        raise unsupported("it has recurrent layers, so a frame depends on all frames before it")


def unsupported(
    why: str, do_this: str = "use a variational one, such as v1, v2 or v3."
) -> UserError:
    """The error of every model that is not supported."""
    return UserError("this RAVE is not supported", why=why, do_this=do_this)


def _fuse(model: RAVE) -> None:
    """Multiply weight norm out once, not at every call; switch speaker adaptation off."""
    for module in model.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
        elif type(module).__name__ == "AdaptiveInstanceNormalization":
            # It can hold statistics of voices learnt on stage, which are no part of the codec, in
            # buffers that limit a batch to 64.
            module.reset_x()
            module.reset_y()
