"""The training task: the loss of a batch, and the losses of models that learned nothing.

Shapes: B batch, C latent channels, L noise levels, W frames of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

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
"""Lengths (frames) of segments to estimate spectra from; the first one with enough is used."""
ENOUGH_SEGMENTS = 32
"""Segments that a spectrum is estimated from, at least."""
MOST_VALUES = 1 << 23
"""Values of all segments together, at most: transforming them takes some 300 MB."""


@dataclass(frozen=True)
class BaselineLosses:
    """Closed-form mean losses, over evenly spread levels, of denoisers that need no training."""

    zero: float
    """Loss of predicting zero."""
    variance: float
    """Loss of knowing only the variance of each channel; skill is measured against this one."""
    spectrum: float
    """Loss of knowing the spectrum of each channel: the best linear filter."""

    @property
    def learnable(self) -> float:
        """Skill of that filter: how much of the latents is predictable along time, at least."""
        return baseline.skill(self.spectrum, self.variance)


@dataclass(frozen=True)
class Task:
    """An objective on a schedule, for latents whose channels have known variances."""

    objective: Objective
    schedule: Schedule
    noise_level_sampler: NoiseLevelSampler | None = None
    """How often training visits each level; None: as often as the schedule does."""
    variance: Tensor | None = None
    """[C] of the latents; None: ones."""
    transform_noise: Callable[[Tensor], Tensor] | None = None
    """Applied to the white noise [B, C, W] of a training step; None: it stays white."""
    costly_pairs: ClassVar[bool] = False
    """Whether `pair` takes so long that what it gave for validation windows is kept."""

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """log-SNR [B], one in each of B equally likely intervals, and weight [B] of its loss."""
        return self._levels.draw(batch, generator)

    def observe(self, logsnr: Tensor, losses: Tensor) -> None:
        """Let the sampler learn from the levels and losses [B] of a whole step, of all processes.

        Losses as `losses` gives them, not multiplied by the weights of `draw`.
        """
        self._levels.observe(logsnr, losses)

    @property
    def observant(self) -> bool:
        """Whether `observe` has any effect on later draws."""
        return self._levels.observant

    def state_dict(self) -> dict[str, Tensor]:
        """State of the noise level sampler, which later draws depend on."""
        return self._levels.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state from `state_dict`."""
        self._levels.load_state_dict(state)

    def levels(self, count: int) -> Tensor:
        """[L] log-SNR, clean to noisy, evenly spread over the schedule's t.

        L = `count`, or 1 if the schedule has one level only (that of a regression).
        """
        levels = self.schedule((torch.arange(count) + 0.5) / count)
        return levels[:1] if (levels == levels[0]).all() else levels

    def pair(self, batch: Batch, logsnr: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents and noise [B, C, W] to train on at log-SNR [B]: here, those given."""
        return batch.latents, noise

    def baseline(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """The denoiser that skill is measured against."""
        return self.knows_variance(z_t, logsnr, condition)

    def knows_variance(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """The best denoiser that knows only the variance of each channel."""
        return knows_variance(z_t, logsnr, self.variance)

    def losses(self, denoise: Denoise, batch: Batch, logsnr: Tensor, noise: Tensor) -> Tensor:
        """[B] loss of a denoiser on clean windows [B, C, W] at log-SNR [B]; padding is ignored.

        Windows and `noise` as `pair` gives them.
        """
        return self.objective(denoise, batch.latents, logsnr, noise, batch.condition, batch.mask)

    def baseline_losses(self, windows: Windows, levels: int = 64) -> BaselineLosses | None:
        """Losses of closed-form baselines on the files of these windows; None: there are none."""
        variance = torch.ones(windows.channels) if self.variance is None else self.variance.cpu()
        logsnr, spectrum = self.levels(levels), spectrum_of(windows) * variance[:, None]
        return BaselineLosses(
            zero=float(baseline.zero(self.objective, logsnr, variance).mean()),
            variance=float(baseline.variance_only(self.objective, logsnr, variance).mean()),
            spectrum=float(baseline.spectrum_only(self.objective, logsnr, spectrum).mean()),
        )

    @property
    def _levels(self) -> NoiseLevelSampler:
        return self.noise_level_sampler or NoiseLevelSampler(self.schedule)


def spectrum_of(windows: Windows) -> Tensor:
    """[C, F] power spectrum of each channel, scaled to mean 1 (Welch's method, Hann taper).

    Estimated from segments as long as the files allow, whatever the training window: short segments
    blur the spectrum, and the best filter would look worse than it is.
    """
    for frames in SEGMENTS:
        most = max(ENOUGH_SEGMENTS, MOST_VALUES // (frames * windows.channels))
        batch = windows.resized(frames).spread(most)
        whole = batch.latents[batch.mask.all(dim=1)]
        if len(whole) >= ENOUGH_SEGMENTS:
            break
    # If all files are shorter than that, padded segments give the spectrum well enough.
    segments = whole if len(whole) else batch.latents
    # Tapered, as the jump between a segment's ends would leak into all frequencies.
    taper = torch.hann_window(segments.shape[-1])
    spectrum = baseline.power_spectrum(segments * taper)
    return spectrum / spectrum.mean(dim=1, keepdim=True).clamp(min=1e-12)
