"""RAVE's multi-scale spectral distance with its gradient in closed form.

RAVE differentiates it by autograd, through complex magnitudes and through the spectra of the target,
whose gradient nobody needs. Here the gradient comes from the spectra that the value needs anyway, by
one inverse transform per scale, and only for the prediction.

Shapes: R rows of samples (batch x channels or bands), N samples, T frames, S samples per frame,
F = S / 2 + 1 frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_HOPS = 4
"""Frames overlap: each begins a quarter of its length after the one before."""
_TINY = 1e-18
"""Magnitudes below have no direction to move in; its square is still a normal float."""


class SpectralDistance(nn.Module):
    """Drop-in for RAVE's `AudioDistanceV1`, equal to it in value and in the prediction's gradient.

    The target is a constant. It keeps the parts of the module that it replaces, so that the model's
    state_dict stays as it is.
    """

    def __init__(self, multiscale_stft: nn.Module, log_epsilon: float) -> None:
        """`multiscale_stft`: RAVE's, one that `is_plain` accepts."""
        super().__init__()
        self.multiscale_stft = multiscale_stft
        self.log_epsilon = log_epsilon

    def forward(self, target: Tensor, prediction: Tensor) -> dict[str, Tensor]:
        """Both [B, channels, N] -> the sum over the scales."""
        windows = [stft.window for stft in self.multiscale_stft.stfts]  # type: ignore[union-attr]
        rows = (audio.flatten(0, -2).float() for audio in (target.detach(), prediction))
        return {"spectral_distance": spectral_distance(*rows, windows, self.log_epsilon)}


def is_plain(multiscale_stft: nn.Module) -> bool:
    """Whether `SpectralDistance` can use this `MultiScaleSTFT`: magnitudes of framed spectra."""
    stfts: Any = multiscale_stft.stfts
    return (
        multiscale_stft.magnitude is True
        and multiscale_stft.num_mels is None
        and all(_is_plain_stft(stft) for stft in stfts)
    )


def _is_plain_stft(stft: Any) -> bool:
    return (
        (stft.n_fft, stft.hop_length) == (len(stft.window), len(stft.window) // _HOPS)
        and stft.n_fft % (2 * _HOPS) == 0
        and (stft.power, stft.pad, stft.normalized) == (None, 0, False)
        and (stft.center, stft.pad_mode, stft.onesided) == (True, "reflect", True)
    )


def spectral_distance(
    target: Tensor, prediction: Tensor, windows: Sequence[Tensor], log_epsilon: float
) -> Tensor:
    """Distance of float32 signals [R, N], summed over `windows`, each [S]; () shaped.

    Per scale, with magnitudes X of the target and Y of the prediction:
    sum (X - Y)^2 / sum X^2 + mean |log(X + epsilon) - log(Y + epsilon)|.
    """
    distance: Tensor = _SpectralDistance.apply(target, prediction, windows, log_epsilon)
    return distance


class _SpectralDistance(torch.autograd.Function):
    """Value and gradient in one pass, while the spectra are at hand: backward only scales."""

    @staticmethod
    def forward(
        ctx: Any, target: Tensor, prediction: Tensor, windows: Sequence[Tensor], log_epsilon: float
    ) -> Tensor:
        distance = prediction.new_zeros(())
        gradient = torch.zeros_like(prediction) if ctx.needs_input_grad[1] else None
        for window in windows:
            distance += _add_scale(target, prediction, window, log_epsilon, gradient)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * slope, None, None


def _add_scale(
    target: Tensor,
    prediction: Tensor,
    window: Tensor,
    log_epsilon: float,
    gradient: Tensor | None,
) -> Tensor:
    """Distance at one scale; adds its derivative by the prediction to `gradient`, if given."""
    x = _magnitude(_spectrum(target, window))
    spectrum = _spectrum(prediction, window)
    y = _magnitude(spectrum)
    difference = y - x
    energy = x.square().sum()
    value = difference.square().sum() / energy
    shifted = y + log_epsilon
    # One logarithm instead of two.
    value += x.add_(log_epsilon).div_(shifted).log_().abs_().mean()
    if gradient is None:
        return value
    slope = difference.sign().div_(shifted).div_(difference.numel())
    slope.addcmul_(difference, 2 / energy)
    # The derivative of |c| by the real and imaginary part of c is c / |c|.
    spectrum *= slope.div_(y.clamp_(min=_TINY))
    gradient += _spectrum_adjoint(spectrum, window, prediction.shape[-1])
    return value


def _spectrum(signal: Tensor, window: Tensor) -> Tensor:
    """[R, N] -> [R, T, F], frames centred on multiples of the hop, the ends reflected."""
    size = len(window)
    padded = functional.pad(signal, (size // 2, size // 2), mode="reflect")
    return torch.fft.rfft(padded.unfold(-1, size, size // _HOPS) * window)


def _spectrum_adjoint(spectrum: Tensor, window: Tensor, samples: int) -> Tensor:
    """The adjoint of `_spectrum`: [R, T, F] -> [R, N]. It changes `spectrum`."""
    size, half = len(window), len(window) // 2
    # The real inverse counts every frequency twice but the first and the last one.
    spectrum[..., 1:-1] *= 0.5
    frames = torch.fft.irfft(spectrum, size, norm="forward").mul_(window)
    padded = _overlap_add(frames, samples + size)
    gradient = padded[:, half : half + samples].clone()
    gradient[:, 1 : half + 1] += padded[:, :half].flip(-1)
    gradient[:, samples - 1 - half : samples - 1] += padded[:, half + samples :].flip(-1)
    return gradient


def _overlap_add(frames: Tensor, samples: int) -> Tensor:
    """Frames [R, T, S] -> [R, samples], each frame a hop after the one before."""
    rows, count, size = frames.shape
    hop = size // _HOPS
    summed = frames.new_zeros(rows, samples)
    blocks = summed[:, : (count + _HOPS - 1) * hop].unflatten(-1, (-1, hop))
    for number, part in enumerate(frames.unflatten(-1, (_HOPS, hop)).unbind(-2)):
        blocks[:, number : number + count] += part
    return summed


def _magnitude(spectrum: Tensor) -> Tensor:
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return (real * real).addcmul_(imaginary, imaginary).sqrt_()
