"""What is learned: the loss of a batch, and what models score on it that learned nothing.

Shapes: B batch, C latent channels, L noise levels, W frames of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion import baseline
from latentdiff.diffusion.denoiser import knows_variance
from latentdiff.diffusion.levels import NoiseLevelSampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import Schedule
from latentdiff.specs import Condition, Denoise
from latentdiff.training.data import Batch, Windows

SEGMENTS = (1024, 512, 256, 128, 64, 32, 16)
"""Frames of the segments that spectra are estimated from: the longest of which there are enough."""
ENOUGH_SEGMENTS = 32
MOST_VALUES = 1 << 23
"""Of all segments together: to transform them takes some 300 MB."""


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
    """An objective on a schedule, for latents whose channels have known variances."""

    objective: Objective
    schedule: Schedule
    drawn: NoiseLevelSampler | None = None
    """Which levels training visits; None: those of the schedule, as often as it does."""
    variance: Tensor | None = None
    """[C] of the latents; None: ones."""
    noise: Callable[[Tensor], Tensor] | None = None
    """What becomes of the white noise [B, C, W] of a training step; None: it stays."""

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """log-SNR [B], one in each of B equally likely intervals, and weight [B] of its loss."""
        return self._drawn.draw(batch, generator)

    def observe(self, logsnr: Tensor, losses: Tensor) -> None:
        """Tell the levels [B] of a whole step, over all processes, and its losses [B] there.

        Losses as `losses` gives them, not multiplied by the weights of `draw`.
        """
        self._drawn.observe(logsnr, losses)

    @property
    def observant(self) -> bool:
        """Whether `observe` makes any difference to later draws."""
        return self._drawn.observant

    def state_dict(self) -> dict[str, Tensor]:
        """What later draws depend on, besides their generators."""
        return self._drawn.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from such a state."""
        self._drawn.load_state_dict(state)

    def levels(self, count: int) -> Tensor:
        """[L] log-SNR, clean to noisy, as evenly spread as the schedule visits them.

        One, where the schedule has one only: that of a regression.
        """
        levels = self.schedule((torch.arange(count) + 0.5) / count)
        return levels[:1] if (levels == levels[0]).all() else levels

    def knows_variance(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """The best denoiser that knows only the variance of every channel.

        Run on the very windows and noise of a model, it is the baseline its loss stands beside.
        """
        return knows_variance(z_t, logsnr, self.variance)

    def losses(self, denoise: Denoise, batch: Batch, logsnr: Tensor, noise: Tensor) -> Tensor:
        """[B] loss of a denoiser on clean windows [B, C, W] at log-SNR [B]; padding left out."""
        return self.objective(denoise, batch.latents, logsnr, noise, batch.condition, batch.mask)

    def references(self, windows: Windows, levels: int = 64) -> References:
        """Of the data these windows are cut from, by its spectrum."""
        variance = torch.ones(windows.channels) if self.variance is None else self.variance.cpu()
        logsnr, spectrum = self.levels(levels), spectrum_of(windows) * variance[:, None]
        return References(
            zero=float(baseline.zero(self.objective, logsnr, variance).mean()),
            variance=float(baseline.variance_only(self.objective, logsnr, variance).mean()),
            spectrum=float(baseline.spectrum_only(self.objective, logsnr, spectrum).mean()),
        )

    @property
    def _drawn(self) -> NoiseLevelSampler:
        return self.drawn or NoiseLevelSampler(self.schedule)


def spectrum_of(windows: Windows) -> Tensor:
    """[C, F] power spectrum of each channel, scaled to mean 1 (Welch's method, Hann taper).

    From segments as long as the files allow, whatever the training window is: a short segment
    blurs the spectrum and would make the best filter look worse than it is.
    """
    for frames in SEGMENTS:
        most = max(ENOUGH_SEGMENTS, MOST_VALUES // (frames * windows.channels))
        batch = windows.resized(frames).spread(most)
        whole = batch.latents[batch.mask.all(dim=1)]
        if len(whole) >= ENOUGH_SEGMENTS:
            break
    # All files shorter than that: padded ones tell the spectrum well enough.
    segments = whole if len(whole) else batch.latents
    taper = torch.hann_window(segments.shape[-1])
    spectrum = baseline.power_spectrum(segments * taper)
    return spectrum / spectrum.mean(dim=1, keepdim=True).clamp(min=1e-12)
