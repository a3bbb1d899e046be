"""Runs a case of the notebook: trains, calls commands, and reads the number to compare."""

from __future__ import annotations

import json
import logging
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff import child, runs
from latentdiff.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SKIPPED, UserError
from latentdiff.model.project import Project
from latentdiff.model.train import plan_training, train
from latentdiff.notebook import formulas, table
from latentdiff.notebook.entry import Case
from latentdiff.notebook.table import CaseResult, Row
from latentdiff.runs import Run

log = logging.getLogger(__name__)

SAMPLES = "notebook"
"""Folder below samples/ whose spread is measured."""
PLACES = {
    "loss": "{case}/diffusion/run.json:result.loss",
    "skill": "{case}/diffusion/run.json:result.skill",
    "conditioning_gain": "{case}/diffusion/run.json:result.conditioning_gain",
    "spread": "{case}/samples/" + SAMPLES + "/run.json:result.spread",
}
"""Where each quantity is read from; see `Case.at`."""


@dataclass(frozen=True)
class CaseRun:
    """A case of an entry, with the settings and folders it runs in."""

    name: str
    """Name of the entry."""
    case: Case
    project: Project
    root: Path
    """Run directory of the case."""
    shared: Path
    """Run directory for what all cases of a file share."""
    latents: Path
    """Store of latents to run on."""

    def fill_in(self, text: str) -> str:
        """The text with {case}, {shared} and {latents} replaced by their paths."""
        return text.format(case=self.root, shared=self.shared, latents=self.latents)

    def __str__(self) -> str:
        return f"{self.name} ({self.case.name})" if self.case.name else self.name


@dataclass
class Bench:
    """Runs one case after another."""

    overwrite: bool = False
    """Whether to redo what is already done."""
    called: set[str] = field(default_factory=set, init=False)
    """Commands called so far; cases of one file may share some."""

    def row(self, case_run: CaseRun) -> Row:
        """Run the case; if that fails in a way the user can act on, its row holds the error."""
        case, formula = case_run.case, None
        if case.formula is not None:
            formula = formulas.evaluate(case.formula, case_run.project)
        try:
            with _errors_only():
                self._run(case_run)
            result = _result(case_run, formula)
        except UserError as error:
            result = CaseResult(formula, problem=" ".join(str(error).split()))
        return table.row(case_run.name, case, case_run.project.diffusion.loss, result)

    def _run(self, case_run: CaseRun) -> None:
        """Train and call the case's commands, except for what is already done."""
        if case_run.case.how == "train":
            plan = plan_training(Run(case_run.root), case_run.project, case_run.latents)
            train(plan, overwrite=self.overwrite)
        for line in case_run.case.commands:
            if case_run.fill_in(line) not in self.called:
                words = [case_run.fill_in(word) for word in line.split()]
                _call([*words, "--overwrite"] if self.overwrite else words, case_run.root)
                self.called.add(case_run.fill_in(line))


def _result(case_run: CaseRun, formula: float | None) -> CaseResult:
    case, measured, skill = case_run.case, None, None
    if case.how != "formula":
        measured = number_at(case_run.fill_in(case.at or PLACES[case.measure]))
    if case.how == "train":
        skill = number_at(case_run.fill_in(PLACES["skill"]))
    return CaseResult(formula, measured, skill)


def number_at(place: str) -> float:
    """The number at a place in the form of `Case.at`. Raises UserError if it is not there."""
    file, _, keys = place.rpartition(":")
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8"))
        for key in keys.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return _number(value)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"there is no {keys} in {file}", why=str(error)) from error


def _number(value: float | list[object]) -> float:
    """A number unchanged; the median of a list of numbers; the length of any other list."""
    if not isinstance(value, list):
        return float(value)
    numbers = [item for item in value if isinstance(item, int | float)]
    return float(statistics.median(numbers) if numbers else len(value))


def _call(words: Sequence[str], folder: Path) -> None:
    """Run a latentdiff command; its output is appended to the folder's `commands.txt`."""
    runs.make_directory(folder)
    path = folder / "commands.txt"
    with open(path, "a", encoding="utf-8") as output:
        code = child.wait([sys.executable, "-m", "latentdiff", *words], output)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (EXIT_OK, EXIT_SKIPPED):
        raise UserError(
            f"`latentdiff {' '.join(words)}` failed (exit code {code})",
            why=f"its error message is at the end of {path}",
        )


@contextmanager
def _errors_only() -> Iterator[None]:
    """Show only errors on the terminal; a stage's log.txt still gets everything."""
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
