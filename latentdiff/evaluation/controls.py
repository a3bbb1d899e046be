"""Controls: clips made from real ones with something taken away, to hold scores to.

Shapes: B clips, C channels, T frames of a clip, F frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

BLOCK_SECONDS = (0.25, 1.0, 4.0)
"""Lengths of shuffled blocks."""

Control = Callable[[Tensor, float, torch.Generator], Tensor]
"""(clips [B, C, T], frames a second, generator) -> fakes [B, C, T]."""


def white_noise(clips: Tensor, generator: torch.Generator) -> Tensor:
    """White noise [B, C, T] with the mean and covariance of all frames of the clips."""
    frames = clips.transpose(0, 1).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(frames, correction=0).view(len(frames), -1))
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    noise = torch.randn(clips.shape, generator=generator, dtype=torch.float64)
    drawn: Tensor = frames.mean(dim=1)[:, None] + root @ noise
    return drawn.to(clips.dtype)


def gaussian_process(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Draws [B, C, T] of one Gaussian process with the mean and cross-spectra of all clips.

    Each is a sum of the clips' Fourier transforms with random complex weights, frequency by
    frequency, so its expected cross-spectrum is the mean of theirs. It is periodic in T.
    """
    mean = clips.mean(dim=(0, 2), keepdim=True).double()
    spectra = torch.fft.rfft(clips.double() - mean, dim=-1)
    count, _, frequencies = spectra.shape
    # Real and imaginary part have variance 1/2 each; a clip weighs 1 / sqrt(B).
    weights = torch.randn(
        count, count, frequencies, generator=generator, dtype=torch.complex128
    ) / (count**0.5)
    # The mean of a clip is real. So are its weights, with all their variance.
    weights[..., 0] = weights[..., 0].real * 2**0.5
    drawn = torch.einsum("abf,bcf->acf", weights, spectra)
    process: Tensor = mean + torch.fft.irfft(drawn, n=clips.shape[-1], dim=-1)
    return process.to(clips.dtype)


def random_phases(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Clips [B, C, T] with their own mean and cross-spectra, and random phases.

    All channels of a clip are turned alike (Prichard and Theiler 1994, Phys. Rev. Lett. 73, 951).
    """
    spectra = torch.fft.rfft(clips.double(), dim=-1)
    phases = 2 * torch.pi * torch.rand(len(clips), 1, spectra.shape[-1], generator=generator)
    phases[..., 0] = 0
    if clips.shape[-1] % 2 == 0:
        phases[..., -1] = 0
    turned = spectra * torch.exp(1j * phases.double())
    surrogate: Tensor = torch.fft.irfft(turned, n=clips.shape[-1], dim=-1)
    return surrogate.to(clips.dtype)


def shuffled_blocks(clips: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Clips [B, C, T] with their blocks of `frames` in another order, clip by clip.

    The blocks are made a little longer to fill the clip, and there are at least two of them.
    """
    blocks = max(2, clips.shape[-1] // frames)
    size, rest = divmod(clips.shape[-1], blocks)
    parts = clips[..., rest:].unflatten(-1, (blocks, size))
    orders = [_derangement(blocks, generator) for _ in clips]
    moved = torch.stack([part[:, order] for part, order in zip(parts, orders, strict=True)])
    return torch.cat([clips[..., :rest], moved.flatten(-2)], dim=-1)


def _derangement(count: int, generator: torch.Generator) -> Tensor:
    """A random order of 0 .. count - 1 in which none follows its predecessor, where possible."""
    order = torch.randperm(count, generator=generator)
    for _ in range(100):
        if not (order.diff() == 1).any():
            break
        order = torch.randperm(count, generator=generator)
    return order


def reversed_time(clips: Tensor) -> Tensor:
    """Clips [B, C, T] from their last frame to their first."""
    return clips.flip(-1)


def repeated(clips: Tensor, distinct: int) -> Tensor:
    """As many clips [B, C, T], of which only `distinct` are different."""
    chosen = torch.linspace(0, len(clips) - 1, min(distinct, len(clips))).round().long()
    return clips[chosen[torch.arange(len(clips)) % len(chosen)]]


def spliced(clips: Tensor) -> Tensor:
    """Clips [B, C, T] that each go on, from the middle, as one half the set away, mostly of another
    piece."""
    half = clips.shape[-1] // 2
    return torch.cat([clips[..., :half], clips.roll(len(clips) // 2, 0)[..., half:]], dim=-1)


def _shuffled(seconds: float) -> Control:
    return lambda clips, rate, g: shuffled_blocks(clips, max(1, round(seconds * rate)), g)


def all_controls(frame_seconds: float) -> Mapping[str, Control]:
    """All but white noise, by name; frames of `frame_seconds` are shuffled."""
    return {
        "Gaussian process": lambda clips, rate, g: gaussian_process(clips, g),
        "random phases": lambda clips, rate, g: random_phases(clips, g),
        "frames shuffled": _shuffled(frame_seconds),
        **{f"{s:g} s blocks shuffled": _shuffled(s) for s in BLOCK_SECONDS},
        "reversed": lambda clips, rate, g: reversed_time(clips),
        "spliced": lambda clips, rate, g: spliced(clips),
        "one clip repeated": lambda clips, rate, g: repeated(clips, 1),
        "six clips repeated": lambda clips, rate, g: repeated(clips, 6),
    }


UNPLACED = ("Gaussian process", "one clip repeated", "six clips repeated")
"""Controls whose clips do not count as cut from the recordings: a process shares no sound with
them, and repeated clips are meant to be found."""
