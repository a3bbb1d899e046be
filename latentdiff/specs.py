"""Interfaces between packages that may not import each other.

Shapes: B batch, C latent channels in the network, D latent dimensions of the codec, K condition
features, N audio samples, T latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
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


def frame_rate(codec: Codec) -> float:
    """Latent frames per second."""
    return codec.sample_rate / codec.hop


class ConditionSize(NamedTuple):
    """Size of the values of one kind of condition; one of the two is 0."""

    features: int = 0
    """K of frame-wise features."""
    categories: int = 0
    """Number of values of a category, such as a label."""


_NOTHING: Mapping[str, Tensor] = {}


class Condition(NamedTuple):
    """The conditions of a batch of samples by kind; kinds that are missing are not followed.

    A named tuple, because Fabric casts what a network is given, and looks into nothing else.
    """

    values: Mapping[str, Tensor] = _NOTHING
    """Kind -> features [B, K, T], standardised and aligned with the latent frames, or indices [B]
    int64 of a category."""
    given: Mapping[str, Tensor] = _NOTHING
    """Kind -> [B] bool; samples with False do not have it. Missing: all samples have it."""

    def __bool__(self) -> bool:
        """Whether any kind is followed."""
        return bool(self.values)

    @property
    def batch(self) -> int:
        """B; 0 without any kind."""
        return len(next(iter(self.values.values()), ()))

    def to(self, device: torch.device | str) -> Condition:
        """The same conditions on a device."""
        return self._mapped(lambda x: x.to(device))

    def pick(self, index: Tensor | slice) -> Condition:
        """The conditions of the samples at `index`."""
        return self._mapped(lambda x: x[index])

    def without(self, *kinds: str) -> Condition:
        """The conditions but those of these kinds."""
        return Condition(
            {kind: x for kind, x in self.values.items() if kind not in kinds},
            {kind: x for kind, x in self.given.items() if kind not in kinds},
        )

    def with_kind(self, kind: str, value: Tensor, given: Tensor | None = None) -> Condition:
        """The conditions with another value of one kind; `given` None: all samples have it."""
        rest = self.without(kind)
        masks = {} if given is None else {kind: given}
        # In the order of before, as weights are drawn and sums are taken in it.
        values = {**self.values, kind: value}
        return Condition(values, {**rest.given, **masks})

    def restricted(self, keep: Mapping[str, Tensor]) -> Condition:
        """The conditions, of which samples with False in `keep` [B] lose that kind."""
        given = dict(self.given)
        for kind in self.values.keys() & keep.keys():
            given[kind] = keep[kind] & given[kind] if kind in given else keep[kind]
        return Condition(self.values, given)

    def replaced_by(self, order: Tensor, kinds: Collection[str]) -> Condition:
        """The conditions, of which these kinds are those of the samples `order` [B]."""
        other = self.pick(order)
        return Condition(
            {kind: (other if kind in kinds else self).values[kind] for kind in self.values},
            {kind: (other if kind in kinds else self).given[kind] for kind in self.given},
        )

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Condition:
        return Condition(
            {kind: function(x) for kind, x in self.values.items()},
            {kind: function(x) for kind, x in self.given.items()},
        )


NO_CONDITION = Condition()
"""Samples that follow nothing."""


Allocate = Callable[[int, int], "NDArray[np.float64]"]
"""(rows, width) -> an array of that shape, which need not fit into memory; not initialised."""


class DerivedFeatures(Protocol):
    """Condition features that are computed from the latents of a window's file."""

    def random(self, batch: int, generator: torch.Generator) -> Tensor:
        """[B, R] numbers that the features of `batch` windows in training depend on."""
        ...

    def cut(self, files: Tensor, start: Tensor, frames: int, random: Tensor | None) -> Tensor:
        """Standardised features [B, K, `frames`] of windows at frame `start` [B] of `files` [B].

        `random` [B, R] is drawn by `random`; None: always the same features.
        """
        ...


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
