"""Networks wrapped, or changed inside, so that they cannot work well.

Shapes: B batch, C latent channels, K condition features, T frames, W network width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from latentdiff.diffusion.noise import Schedule, alpha_sigma
from latentdiff.networks.layers import DenoisingNetwork, FrameNorm
from latentdiff.notebook.experiments.settings import ExperimentConfig
from latentdiff.specs import Condition

SPAN = 20.0
"""What t in 0..1 is told as: as wide as log-SNRs are, which the embedding is made for."""


class Wrapped(nn.Module):
    """A network in another, with what `describe` asks of it; by itself it changes nothing."""

    def __init__(self, network: nn.Module, channels: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.channels = network.channels if channels is None else channels
        self.condition_features = network.condition_features
        self.receptive_field = network.receptive_field

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """[B, C, T], [B], condition -> [B, C, T]."""
        return self.network(z, logsnr, condition)


class OneOutput(Wrapped):
    """The first channel of the output stands for all."""

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        return super().forward(z, logsnr, condition)[:, :1].expand_as(z)


class Bounded(Wrapped):
    """The output goes through a function."""

    def __init__(self, network: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(network)
        self._function = function

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        return self._function(super().forward(z, logsnr, condition))


class Flattened(Wrapped):
    """A network of one channel on C channels laid end to end: [B, C, T] -> [B, 1, C T] -> back."""

    def __init__(self, network: nn.Module, channels: int, stretched: bool) -> None:
        super().__init__(network, channels)
        self._stretched = stretched

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        features = condition.features
        if features is not None and self._stretched:
            features = interpolate(features, size=z.shape[1] * z.shape[2], mode="nearest")
        elif features is not None:
            features = features.repeat(1, 1, z.shape[1])
        flat = z.flatten(1)[:, None]
        return super().forward(flat, logsnr, condition._replace(features=features)).view_as(z)


class DividedByStd(Wrapped):
    """The network is given z_t over the standard deviation of each window."""

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        return super().forward(divided(z), logsnr, condition)


class WithoutRoot(Wrapped):
    """The network is given alpha^2 z_0 + sigma^2 eps for the z_t of twice that log-SNR."""

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        return super().forward(z * length_without_root(logsnr / 2), logsnr, condition)


class Timed(Wrapped):
    """The network is told the schedule's t, or, where `steps` is set, t in steps, up to `steps`."""

    def __init__(self, network: nn.Module, schedule: Schedule, steps: int | None = None) -> None:
        super().__init__(network)
        self._schedule, self._steps = schedule, steps

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        t = self._schedule.t_of(logsnr)
        told = t if self._steps is None else (t * self._steps).round()
        return super().forward(z, SPAN * told, condition)

    def in_steps(self, steps: int) -> Timed:
        """The same network, told numbers of steps."""
        return Timed(self.network, self._schedule, steps)


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm of W values along one axis of a tensor of any shape, over all other axes."""

    def __init__(self, width: int, axis: int) -> None:
        super().__init__(width)
        self._axis = axis

    def forward(self, x: Tensor) -> Tensor:
        moved = x.movedim(self._axis, -1)
        return super().forward(moved.flatten(0, -2)).view_as(moved).movedim(-1, self._axis)


def build(
    config: ExperimentConfig,
    make: Callable[[int], DenoisingNetwork],
    channels: int,
    schedule: Schedule,
) -> nn.Module:
    """The network that `make` gives for so many channels, with what is wrong about it.

    `schedule`: the one trained on.
    """
    settings = config.network
    flat = settings.layout != "frames"
    network: nn.Module = make(1 if flat else channels)
    if settings.norm == "batch":
        _normalise_batches(network)
    if flat:
        network = Flattened(network, channels, settings.layout == "flat-stretched")
    if settings.output == "one":
        network = OneOutput(network)
    if settings.bound != "none":
        network = Bounded(network, getattr(torch, settings.bound))
    if settings.divide_by_std:
        network = DividedByStd(network)
    if not config.training.square_root:
        network = WithoutRoot(network)
    # The outermost one, as sampling replaces it.
    return Timed(network, schedule) if settings.integer_steps else network


def divided(z: Tensor) -> Tensor:
    """[B, C, T] over the standard deviation of each window."""
    return z / z.std(dim=(1, 2), keepdim=True).clamp(min=1e-8)


def length_without_root(logsnr: Tensor) -> Tensor:
    """[B] -> sqrt(alpha^4 + sigma^4), [B, 1, 1]: what alpha^2 z_0 + sigma^2 eps falls short of."""
    alpha, sigma = alpha_sigma(logsnr[:, None, None])
    return (alpha**4 + sigma**4).sqrt()


def _normalise_batches(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.LayerNorm):
                axis = 1 if isinstance(child, FrameNorm) else -1
                setattr(parent, name, BatchNorm(child.normalized_shape[0], axis))
