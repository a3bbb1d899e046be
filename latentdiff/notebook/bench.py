"""Where a case of the notebook is worked on: trained, commands called, its number read."""

from __future__ import annotations

import json
import logging
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentdiff import child, runs
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SKIPPED, UserError
from latentdiff.model.project import Project
from latentdiff.notebook import formulas, table
from latentdiff.notebook.entry import Case
from latentdiff.notebook.table import Found, Row
from latentdiff.runs import Run

log = logging.getLogger(__name__)

SAMPLES = "notebook"
"""Name below samples/ of those that a spread is measured on."""
PLACES = {
    "loss": "{case}/diffusion/run.json:result.loss",
    "skill": "{case}/diffusion/run.json:result.skill",
    "conditioning_gain": "{case}/diffusion/run.json:result.conditioning_gain",
    "spread": "{case}/samples/" + SAMPLES + "/run.json:result.spread",
}
"""Where each quantity lies; see `Case.at`."""


@dataclass(frozen=True)
class Job:
    """A case of an entry, and where it is worked on."""

    name: str
    """Of the entry."""
    case: Case
    project: Project
    root: Path
    """Run directory of the case."""
    shared: Path
    """Run directory of what all cases of its file have in common."""
    latents: Path

    def filled(self, text: str) -> str:
        """{case}, {shared} and {latents} as the paths they stand for."""
        return text.format(case=self.root, shared=self.shared, latents=self.latents)

    def __str__(self) -> str:
        return f"{self.name} ({self.case.name})" if self.case.name else self.name


@dataclass
class Bench:
    """Works on one case after another."""

    overwrite: bool = False
    """Whether what is done is done anew."""
    called: set[str] = field(default_factory=set, init=False)
    """Commands, which cases of one file may share."""

    def row(self, job: Job) -> Row:
        """Do what the case asks for; a problem that the user can act on is told in its row."""
        formula = None
        if job.case.formula is not None:
            formula = formulas.evaluate(job.case.formula, job.project)
        try:
            with _hushed():
                self._work(job)
            found = _found(job, formula)
        except UserError as error:
            found = Found(formula, problem=" ".join(str(error).split()))
        return table.row(job.name, job.case, job.project.diffusion.loss, found)

    def _work(self, job: Job) -> None:
        """Train, and call the case's commands; what is done already is left."""
        if job.case.how == "train":
            run = Run(job.root)
            train_diffusion(run, job.project, latents=job.latents, overwrite=self.overwrite)
        for line in job.case.commands:
            if job.filled(line) not in self.called:
                words = [job.filled(word) for word in line.split()]
                _call([*words, "--overwrite"] if self.overwrite else words, job.root)
                self.called.add(job.filled(line))


def _found(job: Job, formula: float | None) -> Found:
    case, measured, skill = job.case, None, None
    if case.how != "formula":
        measured = number_at(job.filled(case.at or PLACES[case.measure]))
    if case.how == "train":
        skill = number_at(job.filled(PLACES["skill"]))
    return Found(formula, measured, skill)


def number_at(place: str) -> float:
    """The number at a place such as `Case.at` names. Raises UserError where it is not there."""
    file, _, keys = place.rpartition(":")
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8"))
        for key in keys.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return _number(value)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"there is no {keys} in {file}", why=str(error)) from error


def _number(value: Any) -> float:
    """Itself; of a list of numbers the median, of another its length."""
    if not isinstance(value, list):
        return float(value)
    numbers = [item for item in value if isinstance(item, int | float)]
    return float(statistics.median(numbers) if numbers else len(value))


def _call(words: Sequence[str], folder: Path) -> None:
    """Run a command of latentdiff; what it prints goes into the folder's `commands.txt`."""
    runs.make_directory(folder)
    path = folder / "commands.txt"
    with open(path, "a", encoding="utf-8") as output:
        code = child.wait([sys.executable, "-m", "latentdiff", *words], output)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (EXIT_OK, EXIT_SKIPPED):
        raise UserError(
            f"`latentdiff {' '.join(words)}` failed (exit code {code})",
            why=f"its message is the last one in {path}",
        )


@contextmanager
def _hushed() -> Iterator[None]:
    """Only errors on the terminal; a stage's log.txt still gets everything."""
    handlers = list(logging.getLogger("latentdiff").handlers)
    before = [handler.level for handler in handlers]
    try:
        if log.getEffectiveLevel() > logging.DEBUG:
            for handler in handlers:
                handler.setLevel(logging.ERROR)
        yield
    finally:
        for handler, level in zip(handlers, before, strict=True):
            handler.setLevel(level)
