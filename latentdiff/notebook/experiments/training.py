"""Mistakes in the training task: noise levels, schedules and targets.

Shapes: B batch, C latent channels, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import NoiseLevelSampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import Schedule, alpha_sigma, stratified
from latentdiff.specs import Condition, Network


class OneLevelPerBatch(NoiseLevelSampler):
    """One level for the whole batch, drawn from another sampler."""

    def __init__(self, levels: NoiseLevelSampler) -> None:
        super().__init__(levels.schedule)
        self._levels = levels
        self.observant = levels.observant

    def draw(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """See `NoiseLevelSampler.draw`; all B are equal."""
        logsnr, weight = self._levels.draw(1, generator)
        return logsnr.expand(batch), weight.expand(batch)

    def observe(self, logsnr: Tensor, losses: Tensor) -> None:
        """See `NoiseLevelSampler.observe`."""
        self._levels.observe(logsnr, losses)

    def state_dict(self) -> dict[str, Tensor]:
        """See `NoiseLevelSampler.state_dict`."""
        return self._levels.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `NoiseLevelSampler.load_state_dict`."""
        self._levels.load_state_dict(state)


class RestrictedNoiseLevelSampler(NoiseLevelSampler):
    """Draws t uniformly from `low`..`high` of the schedule."""

    def __init__(self, schedule: Schedule, low: float, high: float) -> None:
        super().__init__(schedule)
        self._low, self._high = low, high

    def draw(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """See `NoiseLevelSampler.draw`."""
        t = self._low + (self._high - self._low) * stratified(batch, generator)
        logsnr = self.schedule(t)
        return logsnr, torch.ones_like(logsnr)


def scale_logsnr(schedule: Schedule, factor: float) -> Schedule:
    """The schedule with `factor` times its log-SNR at every t.

    Latents mixed without square roots have a signal-to-noise ratio of alpha^2 / sigma^2 instead of
    alpha / sigma: twice the log-SNR.
    """
    return Schedule(
        schedule.name,
        lambda t: factor * schedule(t),
        lambda logsnr: schedule.t_of(logsnr / factor),
    )


@dataclass(frozen=True)
class PreviousStep:
    """The latents a step of 1 / `steps` of the schedule's t cleaner, with the same noise."""

    schedule: Schedule
    steps: int

    def affine(self, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) with z_0 = a z_t + b y for those latents y; see `denoiser.affine`.

        y = alpha' z_0 + sigma' eps with eps = (z_t - alpha z_0) / sigma, solved for z_0.
        """
        (alpha, sigma), (alpha_y, sigma_y) = alpha_sigma(logsnr), self.scales(logsnr)
        ratio = sigma_y / sigma
        rest = alpha_y - ratio * alpha
        return -ratio / rest, 1 / rest

    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma one step before; 1 and 0 before the schedule's start."""
        t = self.schedule.t_of(logsnr.double()) - 1 / self.steps
        alpha, sigma = alpha_sigma(self.schedule(t.clamp(min=0)))
        # Not `t < 0`: a 32-bit log-SNR gives t no more precisely, and t = 0 is not quite clean.
        clean = t < -1e-4
        alpha, sigma = alpha.masked_fill(clean, 1.0), sigma.masked_fill(clean, 0.0)
        return alpha.to(logsnr.dtype), sigma.to(logsnr.dtype)


class PreviousStepDenoiser(Denoiser):
    """A denoiser whose network predicts the latents one step cleaner."""

    def __init__(self, network: Network, variance: Tensor | None, previous: PreviousStep) -> None:
        super().__init__(network, "x0", False, variance)
        self._previous = previous

    def forward(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """See `Denoiser.forward`."""
        a, b = self._previous.affine(logsnr[:, None, None])
        return a * z_t + b * self._call(z_t, logsnr, condition)


@dataclass(frozen=True)
class PreviousStepObjective(Objective):
    """The loss measured on the latents one step cleaner."""

    previous: PreviousStep | None = None

    def scale(self, logsnr: Tensor) -> Tensor:
        """See `Objective.scale`."""
        assert self.previous is not None
        return self.previous.affine(logsnr)[1].abs()

    def power(self, logsnr: Tensor, variance: Tensor) -> Tensor:
        """See `Objective.power`."""
        assert self.previous is not None
        alpha, sigma = (x[:, None] for x in self.previous.scales(logsnr))
        return alpha**2 * variance + sigma**2

    @classmethod
    def instead_of(cls, sound: Objective, previous: PreviousStep) -> PreviousStepObjective:
        """The same weighting and kind of loss, for these latents."""
        return cls(sound.parametrisation, sound.weighting, sound.kind, sound.huber_delta, previous)
