"""A trained diffusion model as a whole: its specification, its weights, and sampling from it.

Shapes: B samples, C latent channels of the network, D latent dimensions of the codec, K condition
features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.conditions.kind import ConditionKind, condition_kind
from latentdiff.conditions.label import Label
from latentdiff.conditions.references import NO_REFERENCES, References
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.config import Values
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.noise import Schedule
from latentdiff.diffusion.samplers import Start
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import UserError
from latentdiff.latents.store import CodecFacts
from latentdiff.latents.whitening import Whitening
from latentdiff.model.project import Project
from latentdiff.model.spec import ModelSpec
from latentdiff.runs import Input
from latentdiff.specs import NO_CONDITION, Condition, ConditionSize, Denoise
from latentdiff.training import checkpoint
from latentdiff.training.task import Task

AUTOGUIDANCE = "autoguidance"
"""Key of the calibrated autoguidance in a checkpoint's header."""
FEATURES = "features"
"""Group of the standardisers' tensors in a checkpoint."""
REFERENCES = "references"
"""Group of the references' tensors in a checkpoint, and key of their names in its header."""


class NonFiniteSamples(UserError):
    """Samples that hold NaN or infinite values."""


class Samples(NamedTuple):
    """Latents drawn together."""

    latents: Tensor
    """[B, C, T], final, on the CPU."""
    network_calls: int
    """Calls of the denoiser, each on all B samples."""


@dataclass(frozen=True)
class Model:
    """Everything needed to train on, draw from and measure a diffusion model; see `load`."""

    spec: ModelSpec
    denoiser: Denoiser
    whitening: Whitening
    standardisers: Mapping[str, Standardiser] = field(default_factory=dict)
    """Kind of condition -> standardiser of its features [K, T]."""
    references: References = NO_REFERENCES
    """The training files, for conditions that are not asked for."""
    path: Path | None = None
    """The checkpoint it was loaded from; None in training."""
    step: int = 0
    """Training steps behind these weights."""
    autoguidance: float = 1.0
    """Strength at which samples came nearest to the training latents; 1 before calibration."""
    validation_loss: float | None = None
    """Held-out loss of these weights when they were written; None without held-out files."""
    described: dict[tuple[str, Path], np.ndarray] = field(
        default_factory=dict, repr=False, compare=False
    )
    """(kind, file of latents) -> what describes files that `references` lacks, once they were
    read."""

    # --- from a checkpoint, and to one

    @classmethod
    def create(
        cls,
        spec: ModelSpec,
        whitening: Whitening,
        standardisers: Mapping[str, Standardiser] | None = None,
        references: References = NO_REFERENCES,
        seed: int = 0,
    ) -> Model:
        """An untrained model. Raises UserError where the settings contradict each other."""
        standardisers = standardisers or {}
        denoiser = spec.recipe.make_denoiser(
            channels=whitening.channels,
            conditions=_sizes(spec, standardisers),
            seed=seed,
            variance=whitening.variance,
        )
        return cls(spec, denoiser, whitening, standardisers, references)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Model:
        """The model of a `.safetensors` checkpoint, with its averaged weights, ready to sample.

        It needs no other file. Raises UserError where the file is missing, damaged, or no
        diffusion checkpoint.
        """
        weights = checkpoint.load_weights(path)
        header = weights.header
        spec = ModelSpec.from_header(header, str(path))
        fresh = cls.create(
            spec,
            Whitening.from_state(weights.group("whitening")),
            _standardisers(spec, weights.group),
            References(
                header.get(REFERENCES, ()),
                {kind: table.numpy() for kind, table in weights.group(REFERENCES).items()},
            ),
        )
        try:
            fresh.denoiser.load_state_dict(weights.group("network"))
        except RuntimeError as error:
            raise UserError(
                f"{path} does not fit the network that it describes",
                why=str(error).splitlines()[0],
                do_this="train again: another version of latentdiff wrote it.",
            ) from error
        validation = header.get("validation")
        return replace(
            fresh,
            denoiser=fresh.denoiser.eval().requires_grad_(False).to(device),
            path=path,
            step=header["step"],
            autoguidance=header.get(AUTOGUIDANCE, 1.0),
            validation_loss=None if validation is None else float(validation["loss"]),
        )

    def save(self, path: Path) -> None:
        """Write a checkpoint that `load` reads, whole or not at all."""
        network = self.denoiser.state_dict()
        tensors = checkpoint.pack(network=network, **self.constants())
        header = {**self.header(), "step": self.step, AUTOGUIDANCE: self.autoguidance}
        checkpoint.save_weights(path, tensors, header)

    def constants(self) -> dict[str, Mapping[str, Tensor]]:
        """Named groups of tensors in a checkpoint besides the network's weights."""
        groups: dict[str, Mapping[str, Tensor]] = {"whitening": self.whitening.state_dict()}
        for kind, standardiser in self.standardisers.items():
            arrays = standardiser.arrays()
            groups[f"{FEATURES}.{kind}"] = {k: torch.from_numpy(x) for k, x in arrays.items()}
        tables = self.references.values
        groups[REFERENCES] = {kind: torch.from_numpy(table) for kind, table in tables.items()}
        return groups

    def header(self) -> Values:
        """The description in a checkpoint besides what training adds, as JSON."""
        return {**self.spec.to_header(), REFERENCES: list(self.references.keys)}

    def as_input(self) -> Input:
        """The checkpoint as what a stage was made from."""
        assert self.path is not None  # only loaded models are inputs
        return Input(str(self.path), runs.sha256_file(self.path))

    # --- what it is

    @property
    def name(self) -> str:
        """Name in messages."""
        return "the model in training" if self.path is None else str(self.path)

    @property
    def codec(self) -> CodecFacts:
        """The codec whose latents it generates."""
        return self.spec.codec

    @property
    def condition(self) -> ConditionConfig:
        """The condition settings."""
        return self.spec.condition

    @cached_property
    def kinds(self) -> dict[str, ConditionKind]:
        """The kinds of conditions that it follows, by name."""
        return {name: condition_kind(name, self.condition) for name in self.condition.chosen}

    @property
    def labels(self) -> list[str]:
        """The label vocabulary."""
        return self.spec.labels

    @property
    def schedule(self) -> Schedule:
        """The noise levels it was trained on."""
        return self.spec.recipe.schedule

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.denoiser.parameters()).device

    def task(self) -> Task:
        """The task it is trained on, for training it or measuring its losses.

        Raises UserError for a distilled model.
        """
        if self.spec.distilled is not None:
            raise UserError(
                f"{self.name} has no losses by noise level",
                why=f"it is {self.spec.distilled.describe()}, and estimates the teacher's samples",
                do_this="measure the teacher, or compare samples with `latentdiff evaluate`.",
            )
        return self.spec.recipe.make_task(self.whitening.variance)

    def whiten(self, raw: Tensor) -> Tensor:
        """Raw latents [..., D, T] => final latents [..., C, T], on the CPU."""
        return self.whitening.whiten(raw.to(self.whitening.mean.device)).cpu()

    def unwhiten(
        self, final: Tensor, fill: Literal["mean", "noise"], generator: torch.Generator
    ) -> Tensor:
        """Final latents [..., C, T] => raw latents [..., D, T], on the CPU.

        `fill`: what directions the network does not see become, `mean` or `noise` of `generator`.
        """
        final = final.to(self.whitening.mean.device)
        return self.whitening.unwhiten(final, fill, generator).cpu()

    # --- sampling

    def with_sampling_of(self, project: Project) -> Model:
        """The same model with the mistakes in sampling that `project` asks for.

        Raises UserError for mistakes in training that it was not trained with.
        """
        return replace(self, spec=self.spec.with_sampling_of(project, self.name))

    def resolve(self, settings: SamplingConfig) -> SamplingConfig:
        """Settings with this model's own autoguidance in place of `auto`, and its own calls where
        it is distilled.

        Raises UserError for guidance of a model that follows nothing, and for other calls than a
        distilled model's own.
        """
        settings.check_guidance(conditioned=bool(self.kinds))
        if self.spec.distilled is not None:
            return self.spec.distilled.sampling(settings, self.name)
        own = settings.autoguidance == "auto"
        return settings.model_copy(update={"autoguidance": self.autoguidance}) if own else settings

    def sample(
        self,
        settings: SamplingConfig,
        seeds: Sequence[int],
        frames: int,
        condition: Condition = NO_CONDITION,
        start: Start | None = None,
    ) -> Samples:
        """One sample of `frames` latent frames for each seed, all drawn together.

        A sample depends on the model, the settings, its seed, length and condition, and on what it
        starts from, and on nothing else. `condition` and `start` have a row for each seed. Raises
        NonFiniteSamples.
        """
        recipe, settings = self.spec.recipe, self.resolve(settings)
        denoise = _Counted(recipe.denoise_for_sampling(self.denoiser, settings.steps))
        latents = recipe.sample(
            denoise,
            settings,
            seeds,
            self.whitening.channels,
            frames,
            condition.to(self.device),
            self.device,
            self.whitening.variance,
            start,
            None if self.spec.distilled is None else self.spec.distilled.levels,
        )
        if not torch.isfinite(latents).all():
            raise NonFiniteSamples(
                "the samples hold NaN or infinite values",
                why=f"drawn from {self.name} with {settings.sampler} and guidance "
                f"{settings.guidance:g}",
                do_this=self._remedies(settings),
            )
        return Samples(latents.float().cpu(), denoise.calls)

    def _remedies(self, settings: SamplingConfig) -> str:
        """Advice for samples that are not finite, without what is in use already."""
        lower = ["lower sampling.guidance"] if settings.guidance > 1 else []
        more = [] if self.spec.has_fixed_calls else ["raise sampling.steps"]
        return ", or ".join([*lower, *more, "train longer"]) + "."


def _sizes(spec: ModelSpec, standardisers: Mapping[str, Standardiser]) -> dict[str, ConditionSize]:
    """Kind -> size of its values, as the network needs them."""
    sizes = {name: ConditionSize(features=len(x.mean)) for name, x in standardisers.items()}
    if spec.labels:
        sizes[Label.name] = ConditionSize(categories=len(spec.labels))
    return {name: sizes[name] for name in spec.condition.chosen}


def _standardisers(
    spec: ModelSpec, group: Callable[[str], Mapping[str, Tensor]]
) -> dict[str, Standardiser]:
    """Those in a checkpoint; before there could be several, the only one had no name."""
    kinds = [name for name in spec.condition.chosen if name != Label.name]
    unnamed = group(FEATURES)
    groups = (
        {kinds[0]: unnamed} if "mean" in unnamed else {k: group(f"{FEATURES}.{k}") for k in kinds}
    )
    return {name: Standardiser.from_arrays(arrays) for name, arrays in groups.items()}


class _Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoise: Denoise) -> None:
        self._denoise = denoise
        self.calls = 0

    def __call__(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        self.calls += 1
        return self._denoise(z_t, logsnr, condition)
