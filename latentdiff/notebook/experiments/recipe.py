"""The recipe that repeats the notebook's mistakes; the only place where they enter.

Shapes: B samples, C latent channels, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import NoiseLevelSampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import Schedule, schedule_of
from latentdiff.diffusion.settings import DiffusionConfig
from latentdiff.latents import statistics
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.networks.settings import NetworkConfig
from latentdiff.notebook.experiments import data, descriptions, network, sampling
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig
from latentdiff.notebook.experiments.training import (
    OneLevelPerBatch,
    PreviousStep,
    PreviousStepDenoiser,
    PreviousStepObjective,
    RestrictedNoiseLevelSampler,
    scale_logsnr,
)
from latentdiff.specs import ConditionSize, Denoise, Network
from latentdiff.training.recipe import Recipe, Transform


def make_recipe(
    network: NetworkConfig, diffusion: DiffusionConfig, experiment: ExperimentConfig = NO_EXPERIMENT
) -> Recipe:
    """The recipe without mistakes, or the one with the mistakes that `experiment` switches on."""
    if experiment.on:
        return MistakenRecipe(network, diffusion, experiment)
    return Recipe(network, diffusion)


@dataclass(frozen=True)
class MistakenRecipe(Recipe):
    """A recipe with deliberate mistakes; see `Recipe` for the parts."""

    experiment: ExperimentConfig = NO_EXPERIMENT

    @property
    def warnings(self) -> list[str]:
        return [*descriptions.warnings(self.experiment), *super().warnings]

    @property
    def is_sound(self) -> bool:
        return False

    def undo(self, *switches: str) -> list[str]:
        return descriptions.undo(self.experiment, switches)

    # --- the training task

    @cached_property
    def schedule(self) -> Schedule:
        # The true levels of training latents, so that losses and baselines stay comparable.
        intended = schedule_of(self.diffusion)
        square_root = self.experiment.training.square_root
        return intended if square_root else scale_logsnr(intended, 2.0)

    def noise_level_sampler(self) -> NoiseLevelSampler:
        settings, levels = self.experiment.training, super().noise_level_sampler()
        if settings.t_range != (0.0, 1.0):
            levels = RestrictedNoiseLevelSampler(levels.schedule, *settings.t_range)
        return OneLevelPerBatch(levels) if settings.levels == "batch" else levels

    def objective(self) -> Objective:
        sound, previous = super().objective(), self._previous_step
        return sound if previous is None else PreviousStepObjective.instead_of(sound, previous)

    @property
    def transform_noise(self) -> Transform | None:
        limit = self.experiment.training.clip_noise
        return None if limit is None else lambda eps: eps.clamp(-limit, limit)

    @property
    def _previous_step(self) -> PreviousStep | None:
        steps = self.experiment.training.previous
        return None if steps is None else PreviousStep(self.schedule, steps)

    # --- the denoiser

    def make_network(self, channels: int, conditions: Mapping[str, ConditionSize]) -> Network:
        flat = self.experiment.network.layout != "frames"
        sound = super().make_network(1 if flat else channels, conditions)
        return network.with_mistakes(sound, self.experiment, channels, self.schedule)

    def wrap_network(self, network: Network, variance: Tensor | None) -> Denoiser:
        previous = self._previous_step
        if previous is None:
            return super().wrap_network(network, variance)
        return PreviousStepDenoiser(network, variance, previous)

    # --- the data

    def latents(self, store: LatentStore, entry: Entry) -> np.ndarray:
        mean = store.mean(entry)
        if self.experiment.data.posterior == "mean":
            return mean
        std = store.std(entry)
        # If deviations were not stored frame by frame, their mean over all frames was.
        if std is None and (variance := store.statistics().posterior_variance) is not None:
            std = np.broadcast_to(np.sqrt(variance).astype(np.float32)[:, None], mean.shape)
        return data.sample_posterior(entry.key, mean, std)

    def statistics(self, store: LatentStore) -> LatentStatistics:
        if self.experiment.data.posterior == "mean":
            return store.statistics()
        return statistics.fit((self.latents(store, entry), None) for entry in store.of("train"))

    def condition_sources(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        return data.shuffle(entries) if self._shuffled else entries

    def fit_features(self, features: np.ndarray, frames: int) -> np.ndarray:
        return data.loop_from_middle(features, frames) if self._shuffled else features

    @property
    def _shuffled(self) -> bool:
        return self.experiment.data.pairing == "shuffled"

    @property
    def transform_windows(self) -> Transform | None:
        return None if self.experiment.data.scaling == "none" else data.scale_windows

    # --- sampling

    @property
    def sampling_schedule(self) -> Schedule:
        """The levels that sampling assumes: the intended ones."""
        square_root = self.experiment.training.square_root
        return self.schedule if square_root else scale_logsnr(self.schedule, 0.5)

    def denoise_for_sampling(self, denoiser: Denoiser, steps: int) -> Denoise:
        settings, found = self.experiment.network, denoiser
        if settings.integer_steps:
            found = sampling.with_integer_steps(denoiser, steps)
        denoise: Denoise = sampling.divide_input(found) if settings.divide_by_std else found
        square_root = self.experiment.training.square_root
        return denoise if square_root else sampling.assume_square_root(denoise)

    @property
    def after_step(self) -> Transform | None:
        limit = self.experiment.sampling.clamp
        return None if limit is None else lambda z: z.clamp(-limit, limit)

    def finish(self, samples: Tensor, variance: Tensor | None) -> Tensor:
        bend = self.experiment.sampling.normalise
        return sampling.normalise(samples, variance) if bend else samples
