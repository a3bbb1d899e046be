"""Answer a question: print the report, and write it as JSON, text and pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.model.project import Project, already_done, is_unfinished, resolve
from latentdiff.runs import Input, Run, Stage

log = logging.getLogger(__name__)

R = TypeVar("R")
"""A frozen dataclass: the results of one question."""


@dataclass(frozen=True)
class Report(Generic[R]):
    """The answer to a question."""

    results: R
    """Measurements in the structure of NAME.json."""
    text: str
    """The tables and the verdict."""
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """File name, such as `audio/k-1.wav` -> the function that writes it to the given path."""


def project_of(run: Run | None, file: Path | None, overrides: Iterable[str]) -> Project:
    """The settings for a question that needs no run; UserError if `run` is not a run directory."""
    if run is not None and not run.config.exists():
        raise UserError(
            f"{run.root} is not a run directory",
            why=f"it has no {run.config.name}",
            do_this="give the folder that the stages write into, or leave --run out.",
        )
    return resolve(run, file, overrides)


def run_question(
    name: str,
    results: type[R],
    measure: Callable[[], Report[R]],
    directory: Path | None,
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Input] | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> R | None:
    """Log the report; given a `directory`, also write NAME.json, NAME.txt and its files there.

    `measure` is called only if the directory does not hold this report yet, made with the same
    settings and inputs; otherwise the old results are read back. An interrupted report is made
    anew. Returns the results, or None for a dry run. Raises UserError if the directory holds a
    report made with other settings or inputs, or files that are not ours.
    """
    stage, inputs = f"diagnose {name}", inputs or {}
    overwrite = overwrite or (directory is not None and is_unfinished(directory, stage))
    if directory and already_done(directory, stage, settings, inputs, overwrite):
        log.info("%s", (directory / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n"))
        return read_results(directory / f"{name}.json", results)
    if dry_run:
        log.info("dry run: nothing was written; the report would go to %s", directory)
        return None
    if directory is None:
        report = measure()
        log.info("%s", report.text)
        return report.results
    with Stage(directory, stage, config=settings, inputs=inputs, seed=seed, overwrite=overwrite):
        report = measure()
        _write(report, results, directory, name)
        log.info("%s", report.text)
    log.info("files: %s", directory)
    return report.results


def read_results(path: Path, results: type[R]) -> R:
    """The results in a NAME.json; UserError if it does not hold what `results` asks for."""
    try:
        return TypeAdapter(results).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        why = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"cannot read the report {path}",
            why=why,
            do_this="measure again with --overwrite; another version may have written it.",
        ) from error


def _write(report: Report[R], results: type[R], directory: Path, name: str) -> None:
    values = TypeAdapter(results).dump_python(report.results, mode="json")
    runs.write_json(directory / f"{name}.json", values)
    runs.write_text(directory / f"{name}.txt", report.text + "\n")
    for file, write in report.files.items():
        runs.make_directory((directory / file).parent)
        with runs.atomic(directory / file) as partial:
            write(partial)
