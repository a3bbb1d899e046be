"""Makes RAVE's training step faster without changing what it learns.

RAVE computes gradients that it never uses: of the filter bank, which no optimiser has; of the
recorded sound; of the generator where it steps the discriminator only, and the other way round.
Here each step computes those that it uses, the spectral distance has a closed gradient, and the
optimisers are fused.

Shapes: B batch, C and D channels, N samples, S samples of a kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from latentdiff.rave.spectral import SpectralDistance, is_supported

if TYPE_CHECKING:
    from rave import RAVE

Features = list[list[Tensor]]
"""Of each discriminator, the output of each layer."""


def speed_up(model: RAVE) -> None:
    """Prepare a model for fast training, for good. Its state_dict keeps its form.

    Not before RAVE has measured its receptive field, which takes the gradient by the sound.
    """
    for name in ("audio_distance", "multiband_audio_distance"):
        setattr(model, name, _fast_distance(getattr(model, name)))
    _fix_filter_bank(model.pqmf)
    model.encoder.register_forward_pre_hook(_detach)
    _NeededGradients(model).install()
    _fuse_optimizers(model)


def _fast_distance(distance: Any) -> nn.Module:
    """The same distance, computed faster where `SpectralDistance` can."""
    from rave import core

    replaceable = type(distance) is core.AudioDistanceV1 and is_supported(distance.multiscale_stft)
    if not replaceable:
        return distance  # type: ignore[no-any-return]
    return SpectralDistance(distance.multiscale_stft, distance.log_epsilon)


def _fix_filter_bank(pqmf: Any) -> None:
    """Spare the gradient of the filters, and compute that of the bands faster."""
    from rave.pqmf import CachedPQMF

    pqmf.requires_grad_(False)
    if type(pqmf) is not CachedPQMF:
        return
    synthesis = pqmf.inverse_conv

    def forward(bands: Tensor) -> Any:
        padded = functional.pad(bands, synthesis._pad)
        return _FixedConvolution.apply(padded, synthesis.weight)

    synthesis.forward = forward


class _FixedConvolution(torch.autograd.Function):
    """Convolution [B, C, N] with a kernel [D, C, S] that is not learned.

    Its gradient is a convolution too. On a CPU, torch takes several times longer for it as a
    gradient than as a convolution.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(kernel)
        return functional.conv1d(signal, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (kernel,) = ctx.saved_tensors
        adjoint = kernel.transpose(0, 1).flip(-1).to(slope)
        return functional.conv1d(slope, adjoint, padding=kernel.shape[-1] - 1), None


def _detach(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """A forward pre-hook: no gradient goes back to the inputs."""
    return (inputs[0].detach(),)


class _NeededGradients:
    """In each step, only the parameters that it updates require gradients."""

    def __init__(self, model: RAVE) -> None:
        self._model = model
        self._training_step = model.training_step
        self._split_features = model.split_features
        self._judge: bool | None = None
        """Whether the step is one of the discriminator; None before the first one."""
        self._real: Features | None = None
        """Features of the recorded sound, where the generator is stepped."""

    def install(self) -> None:
        """Take the place of the model's methods."""
        model: Any = self._model
        model.training_step = self.training_step
        model.split_features = self.split_features
        model.discriminator.register_forward_pre_hook(self._before_discriminator)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """RAVE's own, [B, channels, N]."""
        model = self._model
        # In phase 2, RAVE steps either the discriminator or the generator.
        judge = model.warmed_up and batch_idx % model.update_discriminator_every == 0
        if judge != self._judge:
            self._judge = judge
            model.encoder.requires_grad_(not judge)
            model.decoder.requires_grad_(not judge)
            model.discriminator.requires_grad_(judge)
        self._training_step(batch, batch_idx)

    def _before_discriminator(
        self, discriminator: nn.Module, inputs: tuple[Tensor]
    ) -> tuple[Tensor]:
        """A forward pre-hook. The batch is recorded sound, then as much of the generator's."""
        if self._judge:
            return _detach(discriminator, inputs)
        real, fake = inputs[0].chunk(2)
        with torch.no_grad():
            self._real = discriminator.forward(real)
        return (fake,)

    def split_features(self, features: Features) -> tuple[Features, Features]:
        """RAVE's own: features of the recorded sound, and of the generator's."""
        real, self._real = self._real, None
        if real is not None:
            return real, features
        split: tuple[Features, Features] = self._split_features(features)
        return split


def _fuse_optimizers(model: RAVE) -> None:
    """Have all parameters updated by one kernel instead of several for each."""
    configure = model.configure_optimizers

    def configure_fused() -> Any:
        entries = configure()
        for entry in entries:
            for group in entry["optimizer"].param_groups:
                group["fused"] = True
        return entries

    anything: Any = model
    anything.configure_optimizers = configure_fused
