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
        # Frames are centred on multiples of the hop, and the ends reflected. Padded once, for the
        # longest window; the others leave out the outer samples.
        reach = max(len(window) for window in windows) // 2
        target, prediction = (
            functional.pad(signal, (reach, reach), mode="reflect")
            for signal in (target, prediction)
        )
        distance = prediction.new_zeros(())
        gradient = torch.zeros_like(prediction) if ctx.needs_input_grad[1] else None
        for window in windows:
            spare = reach - len(window) // 2
            within = slice(spare, prediction.shape[-1] - spare)
            distance += _one_scale(
                target[:, within],
                prediction[:, within],
                window,
                log_epsilon,
                None if gradient is None else gradient[:, within],
            )
        if gradient is not None:
            ctx.save_for_backward(_reflection_adjoint(gradient, reach))
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
    """Distance at one scale of padded signals; adds its gradient to `gradient`, if given."""
    x_power = _power(_spectrum(target, window))
    energy = x_power.sum()
    x = x_power.sqrt_()
    spectrum = _spectrum(prediction, window)
    y = _power(spectrum).sqrt_()
    difference = y - x
    value = difference.square().sum() / energy
    shifted = y + log_epsilon
    # One logarithm of the ratio instead of two.
    value += x.add_(log_epsilon).div_(shifted).log_().abs_().mean()
    if gradient is None:
        return value
    # By y first, times the number of magnitudes, of which the logarithmic term is the mean. That
    # term grows with y where y is larger than x, and falls otherwise.
    slope = difference.sign().div_(shifted)
    slope.addcmul_(difference, 2 * y.numel() / energy)
    # Then by the spectrum c: the derivative of |c| by its real and imaginary part is c / |c|.
    slope.div_(y.clamp_(min=_TINY))
    # Then by the frames, through the adjoint of the real transform: twice a half of the inverse,
    # which counts all frequencies twice but the first and the last one.
    slope[..., 0] *= 2
    slope[..., -1] *= 2
    spectrum *= slope
    frames = torch.fft.irfft(spectrum, len(window), norm="forward").mul_(window)
    _overlap_add(frames, 0.5 / y.numel(), gradient)
    return value


def _spectrum(signal: Tensor, window: Tensor) -> Tensor:
    """Padded signal [R, (T - 1) * S / 4 + S] -> [R, T, F]."""
    size = len(window)
    spectrum: Tensor = torch.fft.rfft(signal.unfold(-1, size, size // _HOPS) * window)
    return spectrum


def _power(spectrum: Tensor) -> Tensor:
    # With its root, several times faster than `abs`, which guards against overflow.
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return (real * real).addcmul_(imaginary, imaginary)


def _overlap_add(frames: Tensor, scale: float, signal: Tensor) -> None:
    """Add frames [R, T, S], a hop apart and times `scale`, to `signal`, the adjoint of framing."""
    _, count, size = frames.shape
    hop = size // _HOPS
    hops = signal[:, : (count + _HOPS - 1) * hop].unflatten(-1, (-1, hop))
    for number, part in enumerate(frames.unflatten(-1, (_HOPS, hop)).unbind(-2)):
        hops[:, number : number + count].add_(part, alpha=scale)


def _reflection_adjoint(padded: Tensor, reach: int) -> Tensor:
    """The adjoint of reflecting `reach` samples at both ends: [R, N + 2 reach] -> [R, N]."""
    before, signal, after = padded.tensor_split((reach, padded.shape[-1] - reach), dim=-1)
    signal = signal.clone()
    signal[:, 1 : reach + 1] += before.flip(-1)
    signal[:, -reach - 1 : -1] += after.flip(-1)
    return signal
