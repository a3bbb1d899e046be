"""Contracts between rooms that may not import each other.

Shapes: B batch, C latent channels in the network, D latent dimensions of the codec, K condition
features, N audio samples, T latent frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Codec(Protocol):
    """Audio <-> latents, deterministic: the posterior's mean, never a draw from it."""

    sample_rate: int
    """Hz."""
    hop: int
    """Audio samples per latent frame."""
    latent_dim: int
    """D."""
    channels: int
    """Audio channels."""
    fingerprint: str
    """sha256 of the weights: latents remember whose they are."""
    encode_context: tuple[int, int]
    """Latent frames (left, right) of audio around a frame that can change its latent."""
    decode_context: tuple[int, int]
    """Latent frames (left, right) around a frame that can change its audio."""

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """[B, channels, N] -> mean and std of the posterior, each [B, D, ceil(N / hop)]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """[B, D, T] -> audio [B, channels, T * hop], nominally in -1..1 but not clipped."""
        ...


class Condition(NamedTuple):
    """What a sample is conditioned on. A field that is None is not conditioned on."""

    features: Tensor | None = None
    """[B, K, T], standardised, aligned with the latent frames."""
    label: Tensor | None = None
    """[B] int64, index into the run's label names."""
    given: Tensor | None = None
    """[B] bool; where False the sample is treated as if it had no condition. None: all given."""


class Network(Protocol):
    """What a denoising network is to the rest of the program; see `networks/`."""

    def __call__(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """[B, C, T] of any T, [B], condition -> [B, C, T]."""
        ...


class Denoise(Protocol):
    """All that samplers, losses and metrics know of a model."""

    def __call__(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """Noisy latents [B, C, T] at log-SNR [B] -> estimate of the clean ones [B, C, T]."""
        ...
