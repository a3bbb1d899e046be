"""The whole YAML as one object, and what a run directory remembers of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from latentdiff import config, runs
from latentdiff.audio.settings import DataConfig
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.config import Section, Values
from latentdiff.diffusion.settings import DiffusionConfig, DistillConfig, SamplingConfig
from latentdiff.errors import ConfigError, UserError
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import same_fingerprint
from latentdiff.networks.settings import NetworkConfig
from latentdiff.notebook.experiments.settings import ExperimentConfig
from latentdiff.rave.settings import RaveConfig
from latentdiff.runs import Input, Run, RunInfo, Stage, StageExtension
from latentdiff.training.settings import TrainingConfig

if TYPE_CHECKING:
    from latentdiff.training.recipe import Recipe

log = logging.getLogger(__name__)


class Project(Section):
    """All settings of a YAML file; each command reads its own sections."""

    data: DataConfig = Field(default_factory=DataConfig)
    rave: RaveConfig = Field(default_factory=RaveConfig)
    latents: LatentConfig = Field(default_factory=LatentConfig)
    condition: ConditionConfig = Field(default_factory=ConditionConfig)
    diffusion: DiffusionConfig = Field(default_factory=DiffusionConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    experiment: ExperimentConfig = Field(default_factory=ExperimentConfig)
    seed: int = Field(0, ge=0)
    """Seed of all random draws: the split, training, and the first sample."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on; auto takes CUDA, then Apple's MPS, then the CPU."""

    @model_validator(mode="after")
    def _sections_fit(self) -> Project:
        problems = self.experiment.problems(self.diffusion, self.network, self.condition)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def recipe(self) -> Recipe:
        """The recipe that builds the model's parts from these settings."""
        # Here, as reading settings must not import torch.
        from latentdiff.notebook.experiments.recipe import make_recipe

        return make_recipe(self.network, self.diffusion, self.experiment)

    def sections(self, names: Iterable[str]) -> dict[str, Any]:
        """The named sections as plain values, as `run.json` and `config.yaml` hold them."""
        return self.model_dump(mode="json", include=set(names))


def resolve(
    run: Run | None,
    file: Path | None = None,
    overrides: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    beneath: Mapping[str, Any] | None = None,
) -> Project:
    """Defaults, then the run's own config.yaml, settings `beneath` those given now, `file`,
    overrides and options, the last on top.

    Raises ConfigError with every problem at once; settings that the chosen method does not read
    are among them, unless only the run's config.yaml holds them.
    """
    named = {key: value for key, value in (options or {}).items() if value is not None}
    remembered, *layers = [
        config.with_current_names(Project, layer)
        for layer in (
            config.read_yaml(run.config) if run and run.config.exists() else {},
            config.read_yaml(file) if file else {},
            config.parse_overrides(overrides),
        )
    ]
    given = config.merge(*layers, named)
    source = file or (run.config if run and remembered else "config")
    return config.build(Project, config.merge(remembered, beneath or {}, given), str(source), given)


def check_upstream(project: Project, stages: Iterable[Path]) -> None:
    """Raise UserError if settings differ from those that an upstream stage was made with."""
    for directory in stages:
        info = runs.read_run(directory)
        if info is None:
            continue
        # Its seed does not matter here, nor do settings that do not affect its result.
        settings = project.sections(info.config)
        changed = config.differences(_in_todays_terms(info.config, settings), settings)
        changed = _without(changed, ["seed", *info.may_change])
        if changed:
            raise UserError(
                f"{directory} was made with other settings:\n    " + "\n    ".join(changed),
                why="the config would no longer describe its files",
                do_this=f"drop those settings, use another --run, or delete {directory} "
                "to make it anew.",
            )


def begin(
    run: Run,
    project: Project,
    directory: Path,
    name: str,
    *,
    sections: Iterable[str],
    inputs: Mapping[str, Input],
    overwrite: bool = False,
    may_change: Iterable[str] = (),
    harmless: Iterable[str] = (),
) -> Stage | None:
    """The stage to enter, or None where it is already done with these settings and inputs.

    `may_change`: keys such as "training.steps" that a continued run may have changed.
    `harmless`: keys that do not show in what is made; a stage that is done stays done.
    Raises UserError where the folder holds the stage made with other settings or inputs.
    """
    settings = project.sections([*sections, "seed"])
    if already_done(directory, name, settings, inputs, overwrite, may_change, harmless):
        return None
    stage = _RememberingStage(
        directory,
        name,
        config=settings,
        inputs=inputs,
        seed=project.seed,
        overwrite=overwrite,
        may_change=[*may_change, *harmless],
    )
    stage.remember(run, project)
    return stage


def extend(
    run: Run,
    project: Project,
    directory: Path,
    name: str,
    *,
    sections: Iterable[str],
    inputs: Mapping[str, Input],
    added: Mapping[str, Input],
    harmless: Iterable[str] = (),
) -> Stage:
    """The finished stage of this folder, to be entered and given what is made from `added` too.

    Raises UserError where it was made with other settings or `inputs`; see `begin`.
    """
    before = runs.require_done(directory, name, name)
    changed = _changed(before, project.sections([*sections, "seed"]), inputs)
    if hard := _without(changed, harmless):
        raise _made_otherwise(directory, name, hard)
    stage = _RememberingExtension(directory, name, inputs=added)
    stage.remember(run, project)
    return stage


def already_done(
    directory: Path,
    name: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Input],
    overwrite: bool = False,
    may_change: Iterable[str] = (),
    harmless: Iterable[str] = (),
) -> bool:
    """Whether the stage in this folder is done with these settings and inputs; see `begin`.

    Raises UserError, showing the differences, where it was made or begun with other ones.
    """
    before = None if overwrite else runs.read_run(directory, name)
    if before is None:
        return False
    changed = _without(_changed(before, settings, inputs), harmless)
    hard = _without(changed, may_change)
    if hard:
        raise _made_otherwise(directory, name, hard)
    done = before.is_done and not changed
    if changed and not done:
        log.info("continuing with other settings than before:\n    %s", "\n    ".join(changed))
    if done:
        log.info("%s: already done, nothing to do (--overwrite starts it over)", directory)
    return done


def is_unfinished(directory: Path, name: str) -> bool:
    """Whether the folder holds this stage, interrupted or failed.

    A stage that only measures cannot be continued: pass this as its `overwrite`, so that it may
    start again, with other settings too.
    """
    before = runs.read_run(directory, name)
    return before is not None and not before.is_done


def folder_name(name: str) -> str:
    """`name`, which is to be a folder of samples or sound; UserError where it cannot be."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise UserError(
            f"'{name}' cannot be the name of a folder", do_this="use a plain name such as first."
        )
    return name


class _RememberingStage(Stage):
    """A stage that, once its folder is ours, writes the resolved settings as the run's own.

    Not earlier: a setting that a command refused must not haunt the next one.
    """

    def remember(self, run: Run, project: Project) -> None:
        self._run, self._project = run, project

    def _begin(self) -> None:
        super()._begin()
        runs.make_directory(self._run.root)
        runs.write_text(self._run.config, config.to_yaml(self._project))
        self._run.write_elsewhere()


class _RememberingExtension(_RememberingStage, StageExtension):
    """The same for a stage that is done and gets something more."""


def _changed(
    before: RunInfo, settings: Mapping[str, Any], inputs: Mapping[str, Input]
) -> list[str]:
    """A line `key: old -> new` for all that differs from how a stage was made."""
    recorded = _in_todays_terms(before.config, settings)
    return config.differences(recorded, settings) + _other_inputs(before, inputs)


def _made_otherwise(directory: Path, name: str, changed: list[str]) -> UserError:
    return UserError(
        f"{directory} holds a {name} made with other settings or inputs:\n    "
        + "\n    ".join(changed),
        why="continuing would mix the two",
        do_this="replace it with --overwrite, or keep both with another --run or --name.",
    )


def _in_todays_terms(recorded: Values, settings: Mapping[str, Any]) -> Values:
    """Settings from a run.json with today's names, and the defaults of newer ones in `settings`.

    As they are where they are no longer valid: the differences will be shown.
    """
    sections = {
        name: x
        for name, x in recorded.items()
        if name in Project.model_fields and isinstance(x, Mapping)
    }
    try:
        renamed = config.with_current_names(Project, sections)
        now = config.build(Project, renamed).sections(renamed)
    except ConfigError:
        return recorded
    return {**recorded, **_members(now, renamed, settings)}


def _members(values: Values, *wanted: Mapping[str, Any]) -> Values:
    """The values that one of the mappings `wanted` has too: a stage may record half a section."""
    chosen: Values = {}
    for key, value in values.items():
        inside = [each[key] for each in wanted if key in each]
        if inside and isinstance(value, Mapping):
            value = _members(dict(value), *(x for x in inside if isinstance(x, Mapping)))
        if inside:
            chosen[key] = value
    return chosen


def _without(lines: list[str], keys: Iterable[str]) -> list[str]:
    """The `key: old -> new` lines but those of `keys`."""
    left_out = set(keys)
    return [line for line in lines if line.partition(":")[0] not in left_out]


def _other_inputs(before: RunInfo, inputs: Mapping[str, Input]) -> list[str]:
    lines = []
    for key, value in inputs.items():
        if not same_fingerprint(before.fingerprint(key), value.fingerprint):
            old = before.inputs[key].path if key in before.inputs else "none"
            lines.append(f"{key}: another than then ({old} -> {value.path})")
    return lines
