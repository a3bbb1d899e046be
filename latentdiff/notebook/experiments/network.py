"""Mistakes in the network: wrappers and replaced norms that keep it from working well.

Shapes: B batch, C latent channels, K condition features, T frames, W network width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from latentdiff.diffusion.noise import Schedule, alpha_sigma
from latentdiff.networks.layers import FrameNorm
from latentdiff.notebook.experiments.settings import ExperimentConfig
from latentdiff.specs import Condition, Network

SPAN = 20.0
"""Factor of t in 0..1: it then covers as wide a range as log-SNRs, which the embedding expects."""


class Wrapped(nn.Module):
    """A network within another, with the attributes that `describe` reads; changes nothing yet."""

    def __init__(self, network: nn.Module, channels: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.channels = network.channels if channels is None else channels
        self.conditions = network.conditions
        self.receptive_field = network.receptive_field

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """[B, C, T], [B], condition -> [B, C, T]."""
        out: Tensor = self.network(z, logsnr, condition)
        return out


class OneOutput(Wrapped):
    """The first output channel is used for all."""

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        return super().forward(z, logsnr, condition)[:, :1].expand_as(z)


class Bounded(Wrapped):
    """A bounded function of the output."""

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
        values = {
            kind: self._lay_out(x, z.shape) if x.ndim == 3 else x
            for kind, x in condition.values.items()
        }
        flat = z.flatten(1)[:, None]
        return super().forward(flat, logsnr, Condition(values, condition.given)).view_as(z)

    def _lay_out(self, features: Tensor, shape: torch.Size) -> Tensor:
        """Features [B, K, T] for latents of `shape` [B, C, T] => [B, K, C T]."""
        if self._stretched:
            return interpolate(features, size=shape[1] * shape[2], mode="nearest")
        return features.repeat(1, 1, shape[1])


class DividedByStd(Wrapped):
    """The network gets z_t divided by the standard deviation of each window."""

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        return super().forward(divide_by_std(z), logsnr, condition)


class WithoutRoot(Wrapped):
    """The network gets alpha^2 z_0 + sigma^2 eps, in place of the z_t of twice that log-SNR."""

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        return super().forward(z * length_without_root(logsnr / 2), logsnr, condition)


class TimeConditioned(Wrapped):
    """The network gets the schedule's t or, with `steps`, the number of the step 0..`steps`."""

    def __init__(self, network: nn.Module, schedule: Schedule, steps: int | None = None) -> None:
        super().__init__(network)
        self._schedule, self._steps = schedule, steps

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        t = self._schedule.t_of(logsnr)
        time = t if self._steps is None else (t * self._steps).round()
        return super().forward(z, SPAN * time, condition)

    def in_steps(self, steps: int) -> TimeConditioned:
        """The same network with numbers of steps."""
        return TimeConditioned(self.network, self._schedule, steps)


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm of the W values along one axis, over all other axes; tensors of any shape."""

    def __init__(self, width: int, axis: int) -> None:
        super().__init__(width)
        self._axis = axis

    def forward(self, x: Tensor) -> Tensor:
        moved = x.movedim(self._axis, -1)
        return super().forward(moved.flatten(0, -2)).view_as(moved).movedim(-1, self._axis)


def with_mistakes(
    network: Network, config: ExperimentConfig, channels: int, schedule: Schedule
) -> Network:
    """A network for C latent channels with the mistakes that are switched on.

    `network`: the sound one, for one channel if the layout is flat. `schedule`: that of training.
    """
    assert isinstance(network, nn.Module)  # every network is
    settings = config.network
    if settings.norm == "batch":
        _replace_norms(network)
    if settings.layout != "frames":
        network = Flattened(network, channels, settings.layout == "flat-stretched")
    if settings.output == "one":
        network = OneOutput(network)
    if settings.bound != "none":
        network = Bounded(network, getattr(torch, settings.bound))
    if settings.divide_by_std:
        network = DividedByStd(network)
    if not config.training.square_root:
        network = WithoutRoot(network)
    # Outermost, as sampling replaces it.
    return TimeConditioned(network, schedule) if settings.integer_steps else network


def divide_by_std(z: Tensor) -> Tensor:
    """[B, C, T] divided by the standard deviation of each window."""
    return z / z.std(dim=(1, 2), keepdim=True).clamp(min=1e-8)


def length_without_root(logsnr: Tensor) -> Tensor:
    """[B] -> sqrt(alpha^4 + sigma^4), [B, 1, 1].

    alpha^2 z_0 + sigma^2 eps is this times the z_t of twice the log-SNR: a mixture with roots has
    coefficients whose squares sum to 1.
    """
    alpha, sigma = alpha_sigma(logsnr[:, None, None])
    return (alpha**4 + sigma**4).sqrt()


def _replace_norms(network: nn.Module) -> None:
    """Put BatchNorm in place of every LayerNorm, in place."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.LayerNorm):
                axis = 1 if isinstance(child, FrameNorm) else -1
                setattr(parent, name, BatchNorm(child.normalized_shape[0], axis))
