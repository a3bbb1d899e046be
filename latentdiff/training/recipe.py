"""The parts that make up, train and sample a diffusion model.

A `Recipe` makes each part from the settings. A subclass may replace any of them: the notebook does,
to repeat mistakes, and nothing else in the package needs to know.

Shapes: B windows or samples, C latent channels, D latent dimensions of the codec, K condition
features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from latentdiff.diffusion import noise, samplers
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import NoiseLevelSampler, build_noise_level_sampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import Schedule
from latentdiff.diffusion.samplers import Start
from latentdiff.diffusion.settings import DiffusionConfig, SamplingConfig
from latentdiff.errors import UserError
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.networks.build import build
from latentdiff.networks.layers import UNCONDITIONAL
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import NO_CONDITION, Condition, ConditionSize, Denoise, Network
from latentdiff.training.task import Task

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How every part is made."""

    network: NetworkConfig
    diffusion: DiffusionConfig

    @property
    def warnings(self) -> list[str]:
        """Problems of the recipe, one line each."""
        return self.schedule.warnings

    @property
    def is_sound(self) -> bool:
        """Whether no part is a deliberate mistake."""
        return True

    def undo(self, *switches: str) -> list[str]:
        """Settings, as KEY=VALUE, that switch deliberate mistakes off; the sound recipe has none.

        `switches`: those to look at, such as `data.pairing`, or `data` for a whole section.
        """
        return []

    # --- the training task

    @cached_property
    def schedule(self) -> Schedule:
        """The noise levels of training latents."""
        return noise.schedule_of(self.diffusion)

    def noise_level_sampler(self) -> NoiseLevelSampler:
        """How often training visits each level of the schedule."""
        return build_noise_level_sampler(self.diffusion.levels, self.schedule)

    def objective(self) -> Objective:
        """The training objective."""
        return Objective.from_config(self.diffusion)

    @property
    def transform_noise(self) -> Transform | None:
        """Applied to the white noise [B, C, T] of a training step; None: it stays white."""
        return None

    def make_task(self, variance: Tensor) -> Task:
        """The training task on latents of `variance` [C]."""
        return Task(
            self.objective(),
            self.schedule,
            self.noise_level_sampler(),
            variance,
            self.transform_noise,
        )

    # --- the denoiser

    def make_denoiser(
        self,
        *,
        channels: int,
        conditions: Mapping[str, ConditionSize] = UNCONDITIONAL,
        seed: int = 0,
        variance: Tensor | None = None,
    ) -> Denoiser:
        """An untrained denoiser for C latent channels of `variance` [C] (None: ones).

        `conditions`: kind -> size. The weights depend on `seed` only. Raises UserError for a
        regression without a condition.
        """
        if self.diffusion.parametrisation == "regression" and not conditions:
            raise UserError(
                "a regression needs a condition",
                why="diffusion.parametrisation=regression predicts latents from it alone",
                do_this="set condition.kinds=mel, or choose another parametrisation.",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.make_network(channels, conditions)
        return self.wrap_network(network, variance)

    def make_network(self, channels: int, conditions: Mapping[str, ConditionSize]) -> Network:
        """An untrained network; its weights follow torch's global seed."""
        return build(self.network, channels, conditions)

    def wrap_network(self, network: Network, variance: Tensor | None) -> Denoiser:
        """The denoiser around a network: it turns the network's output into clean latents."""
        diffusion = self.diffusion
        return Denoiser(network, diffusion.parametrisation, diffusion.precondition, variance)

    # --- the data

    def latents(self, store: LatentStore, entry: Entry) -> np.ndarray:
        """Raw latents [D, T] of a file: the posterior's means."""
        return store.mean(entry)

    def statistics(self, store: LatentStore) -> LatentStatistics:
        """Statistics of the training files' `latents`."""
        return store.statistics()

    def condition_sources(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """For each file, the file that provides its condition: the file itself."""
        return entries

    def fit_features(self, features: np.ndarray, frames: int) -> np.ndarray:
        """Condition features [K, T'] of a file's condition source, fitted to [K, `frames`]."""
        return features

    @property
    def transform_windows(self) -> Transform | None:
        """Applied to final windows [B, C, T] before training; None: they are left unchanged."""
        return None

    # --- sampling

    def denoise_for_sampling(self, denoiser: Denoiser, steps: int) -> Denoise:
        """The denoiser as a sampler of `steps` steps calls it."""
        return denoiser

    @property
    def sampling_schedule(self) -> Schedule:
        """The noise levels that sampling visits."""
        return self.schedule

    @property
    def after_step(self) -> Transform | None:
        """Applied to z_t [B, C, T] after each sampling step, the last included; None: nothing."""
        return None

    def finish(self, samples: Tensor, variance: Tensor | None) -> Tensor:
        """Final latents [B, C, T] from sampled ones; `variance` [C] of the training latents."""
        return samples

    def sample(
        self,
        denoise: Denoise,
        settings: SamplingConfig,
        seeds: Sequence[int],
        channels: int,
        frames: int,
        condition: Condition = NO_CONDITION,
        device: torch.device | str = "cpu",
        variance: Tensor | None = None,
        start: Start | None = None,
        logsnrs: Sequence[float] | None = None,
    ) -> Tensor:
        """Final latents [B, C, T], one for each seed; see `samplers.sample`.

        `denoise`: what `denoise_for_sampling` gave.
        """
        samples = samplers.sample(
            denoise,
            self.sampling_schedule,
            settings,
            seeds,
            channels,
            frames,
            condition,
            device,
            variance=variance,
            after=self.after_step,
            start=start,
            logsnrs=logsnrs,
        )
        return self.finish(samples, variance)
