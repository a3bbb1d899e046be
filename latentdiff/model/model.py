"""A diffusion model as a whole: denoiser, whitening, condition, and whose latents it speaks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentdiff import config
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.diffusion import noise
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.levels import build_noise_level_sampler
from latentdiff.diffusion.noise import Schedule
from latentdiff.diffusion.settings import DiffusionConfig, SamplingConfig
from latentdiff.errors import UserError
from latentdiff.latents.store import CodecFacts
from latentdiff.latents.whitening import Whitening
from latentdiff.networks.build import build
from latentdiff.networks.settings import NetworkConfig
from latentdiff.notebook.experiments import network as networks
from latentdiff.notebook.experiments import training as experiments
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig
from latentdiff.training import checkpoint
from latentdiff.training.task import Task

AUTOGUIDANCE = "autoguidance"
"""Of a checkpoint's header."""


@dataclass(frozen=True)
class Model:
    """What one checkpoint holds; it needs no other file."""

    path: Path
    denoiser: Denoiser
    whitening: Whitening
    schedule: Schedule
    condition: ConditionConfig
    standardiser: Standardiser | None
    """Of the condition features; None where there are none."""
    labels: list[str]
    codec: CodecFacts
    """Whose latents these are; the fingerprint is empty where that was not known."""
    codec_path: str
    """Where its weights lay then."""
    step: int
    window: int
    """Frames it was trained on at a time."""
    experiment: ExperimentConfig = NO_EXPERIMENT
    """What is wrong with it on purpose."""
    autoguidance: float = 1.0
    """With which its samples come nearest to the training latents; 1 where nobody measured."""

    def draws(self, settings: SamplingConfig) -> SamplingConfig:
        """The settings with this model's own autoguidance in place of `auto`."""
        own = settings.autoguidance == "auto"
        return settings.model_copy(update={"autoguidance": self.autoguidance}) if own else settings

    def sampled_as(self, experiment: ExperimentConfig) -> Model:
        """The same model, with what today's settings do to its samples.

        Raises UserError where they are of an experiment that it was not trained in.
        """
        if experiment.trained.on and experiment.trained != self.experiment.trained:
            raise UserError(
                f"{self.path} was not trained with these settings of experiment",
                why="only those of experiment.sampling can change after training",
                do_this="drop the others, or train another run with them.",
            )
        changed = self.experiment.model_copy(update={"sampling": experiment.sampling})
        return replace(self, experiment=changed)

    def frames(self, seconds: float) -> int:
        """Latent frames that cover so many seconds, at least one."""
        return max(1, -(-round(seconds * self.codec.sample_rate) // self.codec.hop))

    def seconds(self, frames: int) -> float:
        """The length of so many latent frames."""
        return frames * self.codec.hop / self.codec.sample_rate

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Model:
        """Build the model of a `.safetensors` checkpoint, with its averaged weights.

        Raises UserError where the file is missing, damaged, or of another kind.
        """
        weights = checkpoint.load_weights(path)
        header = weights.header
        settings = config.build(DiffusionConfig, header["diffusion"], source=str(path))
        experiment = config.build(ExperimentConfig, header.get("experiment", {}), source=str(path))
        whitening = Whitening.from_state(weights.group("whitening"))
        features = weights.group("features")
        standardiser = Standardiser.from_arrays(features) if features else None
        denoiser = make_denoiser(
            config.build(NetworkConfig, header["network"], source=str(path)),
            settings,
            channels=whitening.channels,
            features=0 if standardiser is None else len(standardiser.mean),
            labels=len(header["labels"]),
            variance=whitening.variance,
            experiment=experiment,
        )
        try:
            denoiser.load_state_dict(weights.group("network"))
        except RuntimeError as error:
            raise UserError(
                f"{path} does not fit the network that it describes",
                why=str(error).splitlines()[0],
                do_this="it was written by another version; train again.",
            ) from error
        return cls(
            path=path,
            denoiser=denoiser.eval().requires_grad_(False).to(device),
            whitening=whitening,
            schedule=experiments.schedule(experiment, noise.schedule_of(settings)),
            condition=config.build(ConditionConfig, header["condition"], source=str(path)),
            standardiser=standardiser,
            labels=header["labels"],
            codec=CodecFacts(**header["codec"]),
            codec_path=header["codec_path"],
            step=header["step"],
            window=header["window"],
            experiment=experiment,
            autoguidance=header.get(AUTOGUIDANCE, 1.0),
        )


def task_of(model: Model) -> Task:
    """The objective it was trained on, on its own schedule, for measuring its losses."""
    header = checkpoint.load_weights(model.path).header
    settings = config.build(DiffusionConfig, header["diffusion"], source=str(model.path))
    objective = experiments.objective(model.experiment, settings, model.schedule)
    return Task(objective, model.schedule, variance=model.whitening.variance)


def make_task(
    diffusion: DiffusionConfig, variance: Tensor, experiment: ExperimentConfig = NO_EXPERIMENT
) -> Task:
    """What is learned of latents of `variance` [C], and on which levels."""
    schedule = experiments.schedule(experiment, noise.schedule_of(diffusion))
    return Task(
        experiments.objective(experiment, diffusion, schedule),
        schedule,
        experiments.levels(experiment, build_noise_level_sampler(diffusion.levels, schedule)),
        variance,
        experiments.noise(experiment),
    )


def make_denoiser(
    network: NetworkConfig,
    diffusion: DiffusionConfig,
    *,
    channels: int,
    features: int = 0,
    labels: int = 0,
    seed: int = 0,
    variance: Tensor | None = None,
    experiment: ExperimentConfig = NO_EXPERIMENT,
) -> Denoiser:
    """A fresh denoiser for C latent channels of `variance` [C] (None: ones).

    Its weights depend on `seed` alone. `experiment`: what is wrong with it on purpose. Raises
    UserError for a regression on nothing.
    """
    if diffusion.parametrisation == "regression" and not (features or labels):
        raise UserError(
            "a regression needs a condition",
            why="diffusion.parametrisation=regression estimates latents from nothing else",
            do_this="set condition.kind=mel, or choose another parametrisation.",
        )
    schedule = experiments.schedule(experiment, noise.schedule_of(diffusion))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = networks.build(
            experiment, lambda c: build(network, c, features, labels), channels, schedule
        )
    return experiments.denoiser(experiment, built, diffusion, variance, schedule)


def header_of(
    network: NetworkConfig,
    diffusion: DiffusionConfig,
    condition: ConditionConfig,
    codec: CodecFacts,
    codec_path: str,
    labels: list[str],
    window: int,
    experiment: ExperimentConfig = NO_EXPERIMENT,
) -> dict[str, Any]:
    """What `Model.load` needs to know, as JSON; the trainer adds step and validation."""
    return {
        "network": network.model_dump(mode="json"),
        "diffusion": diffusion.model_dump(mode="json"),
        "condition": condition.model_dump(mode="json"),
        "codec": asdict(codec),
        "codec_path": codec_path,
        "labels": labels,
        "window": window,
        "experiment": experiment.model_dump(mode="json"),
    }
