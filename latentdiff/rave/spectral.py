"""RAVE's multi-scale spectral distance with its gradient in closed form.

RAVE leaves the gradient to autograd, which differentiates complex magnitudes, and the spectra of
the target too. Here it comes from the spectra that the value needs anyway, by one inverse transform
per scale, for the prediction only.

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
"""Hops per frame: each frame begins a quarter of its length after the one before."""
_TINY = 1e-18
"""Magnitudes below count as zero; its square is still a normal float."""


class SpectralDistance(nn.Module):
    """Takes the place of RAVE's `AudioDistanceV1`: same value, same gradient of the prediction.

    The target is a constant. The names in the model's state_dict stay as they are.
    """

    def __init__(self, multiscale_stft: Any, log_epsilon: float) -> None:
        """`multiscale_stft`: RAVE's, one that `is_supported` accepts."""
        super().__init__()
        self.multiscale_stft = multiscale_stft
        self.log_epsilon = log_epsilon

    def forward(self, target: Tensor, prediction: Tensor) -> dict[str, Tensor]:
        """Distance of two [B, channels, N], summed over the scales."""
        windows = [stft.window for stft in self.multiscale_stft.stfts]
        target, prediction = (audio.flatten(0, 1).float() for audio in (target, prediction))
        distance = spectral_distance(target, prediction, windows, self.log_epsilon)
        return {"spectral_distance": distance}


def is_supported(multiscale_stft: Any) -> bool:
    """Whether `SpectralDistance` can use this `MultiScaleSTFT`: linear magnitudes, unscaled."""
    return (
        multiscale_stft.magnitude
        and multiscale_stft.num_mels is None
        and all(_is_supported_stft(stft) for stft in multiscale_stft.stfts)
    )


def _is_supported_stft(stft: Any) -> bool:
    size = len(stft.window)
    return (
        size % (2 * _HOPS) == 0
        and (stft.n_fft, stft.hop_length) == (size, size // _HOPS)
        and (stft.power, stft.pad, stft.normalized) == (None, 0, False)
        and (stft.center, stft.pad_mode, stft.onesided) == (True, "reflect", True)
    )


def spectral_distance(
    target: Tensor, prediction: Tensor, windows: Sequence[Tensor], log_epsilon: float
) -> Tensor:
    """Distance of float32 signals [R, N], summed over `windows`, each [S].

    Per scale, with magnitudes X of the target and Y of the prediction:
    sum (X - Y)^2 / sum X^2 + mean |log(X + epsilon) - log(Y + epsilon)|.
    """
    value: Tensor = _SpectralDistance.apply(target, prediction, windows, log_epsilon)
    return value


class _SpectralDistance(torch.autograd.Function):
    """Value and gradient in one pass, while the spectra are at hand: `backward` only scales."""

    @staticmethod
    def forward(
        ctx: Any, target: Tensor, prediction: Tensor, windows: Sequence[Tensor], log_epsilon: float
    ) -> Tensor:
        distance = prediction.new_zeros(())
        gradient = torch.zeros_like(prediction) if ctx.needs_input_grad[1] else None
        for window in windows:
            distance += _one_scale(target, prediction, window, log_epsilon, gradient)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * slope, None, None


def _one_scale(
    target: Tensor,
    prediction: Tensor,
    window: Tensor,
    log_epsilon: float,
    gradient: Tensor | None,
) -> Tensor:
    """Distance at one scale; adds its gradient to `gradient`, if that is given."""
    x = _magnitude(_spectrum(target, window))
    spectrum = _spectrum(prediction, window)
    y = _magnitude(spectrum)
    difference = y - x
    energy = x.square().sum()
    value = difference.square().sum() / energy
    shifted = y + log_epsilon
    # One logarithm of the ratio instead of two.
    value += x.add_(log_epsilon).div_(shifted).log_().abs_().mean()
    if gradient is None:
        return value
    # By y first. The logarithmic term grows with y where y is larger than x, and falls otherwise.
    slope = difference.sign().div_(shifted).div_(difference.numel())
    slope.addcmul_(difference, 2 / energy)
    # Then by the spectrum c: the derivative of |c| by its real and imaginary part is c / |c|.
    spectrum *= slope.div_(y.clamp_(min=_TINY))
    gradient += _spectrum_adjoint(spectrum, window, prediction.shape[-1])
    return value


def _spectrum(signal: Tensor, window: Tensor) -> Tensor:
    """[R, N] -> [R, T, F], frames centred on multiples of the hop, the ends reflected."""
    size = len(window)
    padded = functional.pad(signal, (size // 2, size // 2), mode="reflect")
    spectrum: Tensor = torch.fft.rfft(padded.unfold(-1, size, size // _HOPS) * window)
    return spectrum


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
    # Several times faster than `abs`, which guards against overflow.
    return (real * real).addcmul_(imaginary, imaginary).sqrt_()
