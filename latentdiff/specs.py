"""Interfaces between packages that may not import each other.

Shapes: B batch, C latent channels in the network, D latent dimensions of the codec, K condition
features, N audio samples, T latent frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Codec(Protocol):
    """Audio <-> latents. Deterministic: encodes to the posterior mean, never to a draw."""

    sample_rate: int
    """Hz."""
    hop: int
    """Audio samples per latent frame."""
    latent_dim: int
    """D."""
    channels: int
    """Audio channels."""
    fingerprint: str
    """sha256 of the weights; latents record it, so that they are decoded by the same codec."""
    encode_context: tuple[int, int]
    """Receptive field: latent frames (left, right) of audio that can affect a latent."""
    decode_context: tuple[int, int]
    """Receptive field: latent frames (left, right) that can affect the audio of a frame."""

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """[B, channels, N] -> mean and std of the posterior, each [B, D, ceil(N / hop)]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """[B, D, T] -> audio [B, channels, T * hop], nominally in -1..1 but not clipped."""
        ...


class Condition(NamedTuple):
    """The conditions of a batch of samples; a field that is None is not used."""

    features: Tensor | None = None
    """[B, K, T], standardised, aligned with the latent frames."""
    label: Tensor | None = None
    """[B] int64, index into the run's label names."""
    given: Tensor | None = None
    """[B] bool; samples with False are treated as unconditional. None: all are conditioned."""


class Network(Protocol):
    """Interface of a denoising network; see `networks/`."""

    def __call__(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """Noisy latents [B, C, T] of any length T, log-SNR [B] -> network output [B, C, T]."""
        ...


class Denoise(Protocol):
    """Interface of a model for samplers, losses and metrics."""

    def __call__(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """Noisy latents [B, C, T] at log-SNR [B] -> estimate of the clean latents [B, C, T]."""
        ...
