"""Levels, schedules and targets that teach a network the wrong thing.

Shapes: B batch, C latent channels, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import NoiseLevelSampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import Schedule, alpha_sigma, stratified
from latentdiff.notebook.experiments.settings import ExperimentConfig
from latentdiff.specs import Condition, Network


class OneLevelPerBatch(NoiseLevelSampler):
    """One level for the whole batch, as often as `levels` draws it."""

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
    """Only a part of the schedule's t, all of it equally often."""

    def __init__(self, schedule: Schedule, low: float, high: float) -> None:
        super().__init__(schedule)
        self._low, self._high = low, high

    def draw(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """See `NoiseLevelSampler.draw`."""
        t = self._low + (self._high - self._low) * stratified(batch, generator)
        logsnr = self.schedule(t)
        return logsnr, torch.ones_like(logsnr)


def levels(config: ExperimentConfig, sound: NoiseLevelSampler) -> NoiseLevelSampler:
    """The levels trained on, in place of sound ones."""
    low, high = config.training.t_range
    chosen = (
        sound
        if (low, high) == (0.0, 1.0)
        else RestrictedNoiseLevelSampler(sound.schedule, low, high)
    )
    return OneLevelPerBatch(chosen) if config.training.levels == "batch" else chosen


def schedule(config: ExperimentConfig, sound: Schedule) -> Schedule:
    """The levels that training latents really have, where `sound` is what they should have.

    Without square roots, signal over noise is alpha^2 / sigma^2 instead of alpha / sigma: twice
    the log-SNR.
    """
    return sound if config.training.square_root else _scaled(sound, 2.0)


def schedule_of_sampling(config: ExperimentConfig, trained: Schedule) -> Schedule:
    """The levels that sampling believes in, for those of training."""
    return trained if config.training.square_root else _scaled(trained, 0.5)


def noise(config: ExperimentConfig) -> Callable[[Tensor], Tensor] | None:
    """What becomes of the noise of training; None: it stays white."""
    limit = config.training.clip_noise
    return None if limit is None else lambda eps: eps.clamp(-limit, limit)


@dataclass(frozen=True)
class Previous:
    """The latents a step of 1 / `steps` of the schedule's t cleaner, of the same noise."""

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
        """alpha and sigma a step before; clean where that is before the schedule's beginning."""
        t = self.schedule.t_of(logsnr.double()) - 1 / self.steps
        alpha, sigma = alpha_sigma(self.schedule(t.clamp(min=0)))
        # A log-SNR of 32 bits cannot tell t any better; t = 0 itself is not quite clean.
        clean = t < -1e-4
        alpha, sigma = alpha.masked_fill(clean, 1.0), sigma.masked_fill(clean, 0.0)
        return alpha.to(logsnr.dtype), sigma.to(logsnr.dtype)


class PreviousDenoiser(Denoiser):
    """A denoiser whose network puts out the latents a step cleaner."""

    def __init__(self, network: Network, variance: Tensor | None, previous: Previous) -> None:
        super().__init__(network, "x0", False, variance)
        self._previous = previous

    def forward(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """See `Denoiser.forward`."""
        a, b = self._previous.affine(logsnr[:, None, None])
        return a * z_t + b * self._call(z_t, logsnr, condition)


@dataclass(frozen=True)
class PreviousObjective(Objective):
    """The loss measured in the latents a step cleaner."""

    previous: Previous | None = None

    def scale(self, logsnr: Tensor) -> Tensor:
        """See `Objective.scale`."""
        assert self.previous is not None
        return self.previous.affine(logsnr)[1].abs()

    def power(self, logsnr: Tensor, variance: Tensor) -> Tensor:
        """See `Objective.power`."""
        assert self.previous is not None
        alpha, sigma = (x[:, None] for x in self.previous.scales(logsnr))
        return alpha**2 * variance + sigma**2


def objective(config: ExperimentConfig, sound: Objective, trained: Schedule) -> Objective:
    """What is minimised, in place of a sound objective."""
    steps = config.training.previous
    if steps is None:
        return sound
    return PreviousObjective(
        sound.parametrisation,
        sound.weighting,
        sound.kind,
        sound.huber_delta,
        Previous(trained, steps),
    )


def denoiser(
    config: ExperimentConfig, sound: Denoiser, variance: Tensor | None, trained: Schedule
) -> Denoiser:
    """What reads the network's output, in place of a sound denoiser."""
    steps = config.training.previous
    if steps is None:
        return sound
    return PreviousDenoiser(sound.network, variance, Previous(trained, steps))


def _scaled(schedule: Schedule, factor: float) -> Schedule:
    return Schedule(
        schedule.name,
        lambda t: factor * schedule(t),
        lambda logsnr: schedule.t_of(logsnr / factor),
    )
