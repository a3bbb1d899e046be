"""The description of a model in its checkpoint: everything but the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from latentdiff import config
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.diffusion.settings import DiffusionConfig
from latentdiff.latents.store import CodecFacts
from latentdiff.model.distilled import Distilled
from latentdiff.model.project import Project
from latentdiff.networks.settings import NetworkConfig
from latentdiff.notebook.experiments.recipe import make_recipe
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig
from latentdiff.training.checkpoint import DISTILLED_FORMAT
from latentdiff.training.recipe import Recipe

DISTILLED = "distilled"
"""Key of a distilled model's calls in a checkpoint's header."""


@dataclass(frozen=True)
class ModelSpec:
    """The settings a model was trained with, and the codec of its latents."""

    network: NetworkConfig
    diffusion: DiffusionConfig
    condition: ConditionConfig
    codec: CodecFacts
    """The fingerprint is empty where the codec was not known."""
    codec_path: str = ""
    """Path of the codec during training; empty if the codec was unknown."""
    labels: list[str] = field(default_factory=list)
    """The label vocabulary, in the order of the network's indices; empty without labels."""
    window: int = 128
    """Latent frames of a training window."""
    experiment: ExperimentConfig = NO_EXPERIMENT
    """Deliberate mistakes; see `latentdiff.notebook`."""
    distilled: Distilled | None = None
    """The network calls of a distilled model; None: it is not one."""

    @classmethod
    def of(
        cls,
        project: Project,
        codec: CodecFacts,
        codec_path: str = "",
        labels: list[str] | None = None,
    ) -> ModelSpec:
        """The specification of a model that is to be trained with these settings."""
        return cls(
            project.network,
            project.diffusion,
            project.condition,
            codec,
            codec_path,
            labels or [],
            project.training.window,
            project.experiment,
        )

    @classmethod
    def from_header(cls, header: Mapping[str, Any], source: str) -> ModelSpec:
        """The specification in a checkpoint's header. ConfigError naming `source` if it is bad."""
        return cls(
            config.build(NetworkConfig, header["network"], source=source),
            config.build(DiffusionConfig, header["diffusion"], source=source),
            config.build(ConditionConfig, header["condition"], source=source),
            CodecFacts(**header["codec"]),
            header["codec_path"],
            header["labels"],
            header["window"],
            config.build(ExperimentConfig, header.get("experiment", {}), source=source),
            Distilled.from_header(header[DISTILLED]) if DISTILLED in header else None,
        )

    def to_header(self) -> dict[str, Any]:
        """The inverse of `from_header`, as JSON."""
        sections, own = ("network", "diffusion", "condition", "experiment"), self.distilled
        return {
            **{name: getattr(self, name).model_dump(mode="json") for name in sections},
            "codec": asdict(self.codec),
            "codec_path": self.codec_path,
            "labels": self.labels,
            "window": self.window,
            # Older versions would sample it like any other.
            **({} if own is None else {DISTILLED: own.to_header(), "format": DISTILLED_FORMAT}),
        }

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that builds the model's parts."""
        return make_recipe(self.network, self.diffusion, self.experiment)

    def with_sampling_of(self, project: Project, name: str) -> ModelSpec:
        """The specification with the mistakes in sampling that `project` asks for.

        Raises UserError, calling the model `name`, for mistakes it was not trained with.
        """
        return replace(self, experiment=self.experiment.with_sampling_of(project.experiment, name))

    @property
    def is_regression(self) -> bool:
        """Whether the model answers in one network call, for any sampling.steps."""
        return self.diffusion.parametrisation == "regression"

    @property
    def has_fixed_calls(self) -> bool:
        """Whether it makes the same network calls for any sampling.steps."""
        return self.is_regression or self.distilled is not None

    def frames(self, seconds: float) -> int:
        """Latent frames that cover `seconds`, at least one."""
        return max(1, -(-round(seconds * self.codec.sample_rate) // self.codec.hop))

    def seconds(self, frames: int) -> float:
        """Duration of `frames` latent frames."""
        return frames * self.codec.hop / self.codec.sample_rate
