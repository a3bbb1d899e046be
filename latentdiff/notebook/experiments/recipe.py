"""The recipe that repeats the notebook's mistakes: the one door through which they get in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import NoiseLevelSampler
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.noise import Schedule
from latentdiff.diffusion.settings import DiffusionConfig, SamplingConfig
from latentdiff.latents import statistics
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.networks.build import build
from latentdiff.networks.settings import NetworkConfig
from latentdiff.notebook.experiments import data, descriptions, network, sampling, training
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig
from latentdiff.specs import Condition, Denoise, Network
from latentdiff.training.recipe import Recipe, Transform


def make_recipe(
    network: NetworkConfig, diffusion: DiffusionConfig, experiment: ExperimentConfig = NO_EXPERIMENT
) -> Recipe:
    """The sound recipe, or the one with the mistakes that `experiment` switches on."""
    if experiment.on:
        return MistakenRecipe(network, diffusion, experiment)
    return Recipe(network, diffusion)


@dataclass(frozen=True)
class MistakenRecipe(Recipe):
    """A recipe with deliberate mistakes; see `Recipe` for what each part is."""

    experiment: ExperimentConfig = NO_EXPERIMENT

    @property
    def warnings(self) -> list[str]:
        return [*descriptions.warnings(self.experiment), *super().warnings]

    @cached_property
    def schedule(self) -> Schedule:
        return training.schedule(self.experiment, noise.schedule_of(self.diffusion))

    def noise_level_sampler(self) -> NoiseLevelSampler:
        return training.levels(self.experiment, super().noise_level_sampler())

    def objective(self) -> Objective:
        return training.objective(self.experiment, super().objective(), self.schedule)

    @property
    def transform_noise(self) -> Transform | None:
        return training.noise(self.experiment)

    def make_network(self, channels: int, features: int, labels: int) -> Network:
        return network.build(
            self.experiment,
            lambda count: build(self.network, count, features, labels),
            channels,
            self.schedule,
        )

    def wrap_network(self, network: Network, variance: Tensor | None) -> Denoiser:
        sound = super().wrap_network(network, variance)
        return training.denoiser(self.experiment, sound, variance, self.schedule)

    def latents(self, store: LatentStore, entry: Entry) -> np.ndarray:
        mean = store.mean(entry)
        if self.experiment.data.posterior == "mean":
            return mean
        std = store.std(entry)
        # Where deviations were not stored frame by frame, their mean over all frames was.
        if std is None and (variance := store.statistics().posterior_variance) is not None:
            std = np.broadcast_to(np.sqrt(variance).astype(np.float32)[:, None], mean.shape)
        return data.latents(self.experiment, entry.key, mean, std)

    def statistics(self, store: LatentStore) -> LatentStatistics:
        if self.experiment.data.posterior == "mean":
            return store.statistics()
        return statistics.fit((self.latents(store, entry), None) for entry in store.of("train"))

    def condition_sources(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        return data.partners(self.experiment, entries)

    def fit_features(self, features: np.ndarray, frames: int) -> np.ndarray:
        shuffled = self.experiment.data.pairing == "shuffled"
        return data.borrowed(features, frames) if shuffled else features

    @property
    def transform_windows(self) -> Transform | None:
        return data.of_window(self.experiment)

    def denoise_for_sampling(self, denoiser: Denoiser, steps: int) -> Denoise:
        return sampling.as_sampled(self.experiment, denoiser, steps)

    def sample(
        self,
        denoise: Denoise,
        settings: SamplingConfig,
        seeds: Sequence[int],
        channels: int,
        frames: int,
        condition: Condition = Condition(),  # noqa: B008 (immutable)
        device: torch.device | str = "cpu",
        variance: Tensor | None = None,
    ) -> Tensor:
        return sampling.sample(
            self.experiment,
            denoise,
            self.schedule,
            settings,
            seeds,
            channels,
            frames,
            condition,
            device,
            variance,
        )
