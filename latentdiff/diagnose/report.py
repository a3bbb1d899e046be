"""How a diagnosis is told: text on the terminal, and files where there is a folder for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.model.project import Project, already_done, resolve
from latentdiff.runs import Input, Run, Stage

log = logging.getLogger(__name__)

FOLDER = "diagnosis"


@dataclass(frozen=True)
class Report:
    """What was found."""

    results: dict[str, Any]
    """Plain values, as the JSON file holds them."""
    text: str
    """Table and verdict."""
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """Name (folders allowed: `audio/k-1.wav`) -> what writes that file to the path it is given."""


def project_of(run: Run | None, file: Path | None, overrides: Iterable[str]) -> Project:
    """The settings of a diagnosis that needs no run; UserError where `run` is none."""
    if run is not None and not run.config.exists():
        raise UserError(
            f"{run.root} is no run directory",
            why=f"it has no {run.config.name}",
            do_this="name the folder that the stages write into, or leave --run out.",
        )
    return resolve(run, file, overrides)


def folder_of(run: Run, name: str) -> Path:
    """`runs/techno/diagnosis/NAME`."""
    return run.root / FOLDER / name


def tell(
    name: str,
    make: Callable[[], Report],
    directory: Path | None,
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Input] | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> dict[str, Any] | None:
    """Log the report; with a `directory` also leave NAME.json, NAME.txt and its files there.

    Returns the results: read back where the same was made before, None of a dry run. Raises
    UserError where the folder holds one made with other settings or inputs, or is not ours.
    """
    stage_name, inputs = f"diagnose {name}", inputs or {}
    if directory and already_done(directory, stage_name, settings, inputs, overwrite):
        log.info("%s", (directory / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n"))
        return dict(json.loads((directory / f"{name}.json").read_text(encoding="utf-8")))
    if dry_run:
        log.info("dry run: nothing was written; it would report into %s", directory)
        return None
    if directory is None:
        report = make()
        log.info("%s", report.text)
        return report.results
    with Stage(
        directory, stage_name, config=settings, inputs=inputs, seed=seed, overwrite=overwrite
    ):
        report = make()
        _write(report, directory, name)
        log.info("%s", report.text)
    log.info("files: %s", directory)
    return report.results


def _write(report: Report, directory: Path, name: str) -> None:
    runs.write_json(directory / f"{name}.json", report.results)
    runs.write_text(directory / f"{name}.txt", report.text + "\n")
    for file, write in report.files.items():
        runs.make_directory((directory / file).parent)
        with runs.atomic(directory / file) as partial:
            write(partial)
