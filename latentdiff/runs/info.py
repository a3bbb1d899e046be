"""The contents of a stage folder's `run.json`."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from latentdiff.config import Values
from latentdiff.errors import UserError

Status = Literal["running", "done", "failed"]

RUN_FILE = "run.json"

_PACKAGES = ("latentdiff", "torch", "torchaudio", "acids-rave", "lightning", "numpy", "soundfile")


@dataclass(frozen=True)
class Input:
    """Something a stage was made from."""

    path: str
    """Path of the input; for an input that is a setting, the setting as JSON."""
    fingerprint: str
    """sha256 of what it held."""


@dataclass(frozen=True)
class Process:
    """The process that wrote a stage last."""

    pid: int
    host: str


@dataclass(frozen=True)
class RunInfo:
    """The `run.json` of a stage."""

    stage: str
    """Name of the command that made it, such as `encode`."""
    status: Status
    """`running` also if the process was killed; `runs.is_locked` tells these apart."""
    command: str
    """The command line as typed, ready to be pasted."""
    config: Values
    """The sections of the config that it was made with."""
    may_change: tuple[str, ...]
    """Keys of `config` that do not affect what the stage makes."""
    inputs: dict[str, Input]
    """Role (`codec`, `latents`, ...) -> what was used. Dotted names are settings, not files."""
    wall_seconds: float
    """Time spent on it, interrupted runs included."""
    result: Values
    """The result recorded by the stage."""
    started: datetime
    """When its last run started; UTC."""
    process: Process | None = None
    """None: not recorded."""
    seed: int | None = None
    """None: nothing was drawn at random."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package -> version, for Python and the packages that affect the result."""
    error: str | None = None
    """Why it failed; None unless it did."""

    @property
    def is_done(self) -> bool:
        """Whether the stage finished successfully."""
        return self.status == "done"

    def input_path(self, role: str) -> Path | None:
        """Path of an input; None if the stage had none with that role."""
        source = self.inputs.get(role)
        return Path(source.path) if source and source.path else None

    def fingerprint(self, role: str) -> str | None:
        """sha256 of an input; None if the stage had none in that role."""
        source = self.inputs.get(role)
        return source.fingerprint if source else None

    def number(self, name: str) -> float | None:
        """A number among the results; None if it was not recorded, or recorded as unknown."""
        value = self.result.get(name)
        return value if isinstance(value, (int, float)) else None

    def to_json(self) -> Values:
        """The object that `run.json` holds."""
        values = asdict(self) | {"started": self.started.isoformat(timespec="seconds")}
        if self.error is None:
            del values["error"]
        return values


def read_run(directory: Path, stage: str | None = None) -> RunInfo | None:
    """The `run.json` of a stage folder, or None if it has none.

    Raises UserError if the file is damaged, or belongs to another stage than `stage`.
    """
    path = directory / RUN_FILE
    try:
        info = _parse(json.loads(path.read_text(encoding="utf-8")), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read", why=str(error)) from error
    if stage is not None and info.stage != stage:
        raise UserError(
            f"{directory} is the folder of another stage: {info.stage}",
            why=f"this command would write its {stage} there",
            do_this="choose another folder.",
        )
    return info


def require_done(directory: Path, stage: str, make_with: str) -> RunInfo:
    """The `run.json` of a finished stage.

    Raises UserError, naming the command that makes the stage, if it is missing or unfinished.
    """
    info = read_run(directory)
    if info is None:
        raise UserError(
            f"no {stage} in {directory}", do_this=f"make it first: `latentdiff {make_with}`."
        )
    if not info.is_done:
        raise UserError(
            f"the {stage} in {directory} is not finished ({info.status})",
            why=info.error or "it was stopped before it ended",
            do_this=f"continue it with `latentdiff {make_with}`.",
        )
    return info


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a result."""
    versions = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def _adapter() -> TypeAdapter[RunInfo]:
    return TypeAdapter(RunInfo)


def _parse(values: object, path: Path) -> RunInfo:
    try:
        info = _adapter().validate_python(values)
        # A time without a zone is local time.
        return replace(info, started=info.started.astimezone(timezone.utc))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise UserError(
            f"{path} is damaged, or not from this version of latentdiff",
            why=f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}",
            do_this=f"if you need nothing from {path.parent}, delete it.",
        ) from error
