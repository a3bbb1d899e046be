"""What is learned: the loss of a batch, and what models score on it that learned nothing.

Shapes: B batch, C latent channels, L noise levels, W frames of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion import baseline
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import Schedule, alpha_sigma, stratified
from latentdiff.specs import Condition, Denoise
from latentdiff.training.data import Batch, Windows

SEGMENTS = (1024, 512, 256, 128, 64, 32, 16)
"""Frames of the segments that spectra are estimated from: the longest of which there are enough."""
ENOUGH_SEGMENTS = 32
MOST_SEGMENTS = 1024


@dataclass(frozen=True)
class References:
    """Mean losses over evenly spread levels of denoisers that need no training (closed forms)."""

    zero: float
    """Predicts zero."""
    variance: float
    """Knows the variance of each channel; skill is measured against this one."""
    spectrum: float
    """Knows the spectrum of each channel: the best filter."""

    @property
    def learnable(self) -> float:
        """Skill of the filter: how much structure along time the latents surely have."""
        return baseline.skill(self.spectrum, self.variance)


@dataclass(frozen=True)
class Task:
    """An objective on a schedule, for latents whose channels have unit variance."""

    objective: Objective
    schedule: Schedule

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """[B] log-SNR, one in each of B equally likely intervals."""
        return self.schedule(stratified(batch, generator))

    def levels(self, count: int) -> Tensor:
        """[L] log-SNR, clean to noisy, as evenly spread as training draws them."""
        return self.schedule((torch.arange(count) + 0.5) / count)

    def losses(self, denoise: Denoise, batch: Batch, logsnr: Tensor, noise: Tensor) -> Tensor:
        """[B] loss of a denoiser on clean windows [B, C, W] at log-SNR [B]; padding left out."""
        return self.objective(denoise, batch.latents, logsnr, noise, batch.condition, batch.mask)

    def references(self, windows: Windows, levels: int = 64) -> References:
        """Of the data these windows are cut from, by its spectrum."""
        ones, logsnr = torch.ones(windows.channels), self.levels(levels)
        spectrum = spectrum_of(windows)
        return References(
            zero=float(baseline.zero(self.objective, logsnr, ones).mean()),
            variance=float(baseline.variance_only(self.objective, logsnr, ones).mean()),
            spectrum=float(baseline.spectrum_only(self.objective, logsnr, spectrum).mean()),
        )


def spectrum_of(windows: Windows) -> Tensor:
    """[C, F] power spectrum of each channel, scaled to mean 1 (Welch's method, Hann taper).

    From segments as long as the files allow, whatever the training window is: a short segment
    blurs the spectrum and would make the best filter look worse than it is.
    """
    for frames in SEGMENTS:
        batch = windows.resized(frames).spread(MOST_SEGMENTS)
        whole = batch.latents[batch.mask.all(dim=1)]
        if len(whole) >= ENOUGH_SEGMENTS:
            break
    # All files shorter than that: padded ones tell the spectrum well enough.
    segments = whole if len(whole) else batch.latents
    taper = torch.hann_window(segments.shape[-1])
    spectrum = baseline.power_spectrum(segments * taper)
    return spectrum / spectrum.mean(dim=1, keepdim=True).clamp(min=1e-12)


def knows_variance(z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
    """The best denoiser that knows only that every channel has unit variance: alpha z_t.

    Run on the very windows and noise of a model, it is the baseline its loss stands beside.
    """
    alpha, _ = alpha_sigma(logsnr)
    return alpha[:, None, None] * z_t
