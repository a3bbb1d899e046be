"""`notebook run`: entries of the notebook, seen again on the latents at hand."""

from __future__ import annotations

import json
import logging
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentdiff import config, runs
from latentdiff.errors import EXIT_INTERRUPTED, EXIT_LOSSES, EXIT_OK, UserError
from latentdiff.latents.store import LatentStore
from latentdiff.runs import Run
from latentdiff.tracking import progress
from latentdiff.workflows import child
from latentdiff.workflows.notebook import entry as entries
from latentdiff.workflows.notebook import formulas, table
from latentdiff.workflows.notebook.entry import TODAY, Case, Experiment
from latentdiff.workflows.notebook.table import Found, Row
from latentdiff.workflows.project import Project
from latentdiff.workflows.train_diffusion import train_diffusion

log = logging.getLogger(__name__)

FOLDER = "notebook"
"""Of the run directory: a folder an entry, and the table."""
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


def run(
    run: Run,
    names: Sequence[str] = (),
    *,
    every: bool = False,
    settings: Sequence[str] = (),
    latents: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Run entries (`every`: all that can be) on `latents` or the run's own, and tell all numbers.

    `settings` are KEY=VALUE words over those of each case. The settings one would choose today are
    trained beside them, for a number to compare with. Every case has a folder in
    RUN/notebook; the same command again resumes. Returns what could not be run, with reasons.
    """
    store = LatentStore.open(latents or run.latents).root
    options = {key: value for key, value in (("seed", seed), ("device", device)) if value}
    overrides = config.merge(config.parse_overrides(settings), options)
    chosen = _chosen(names, every)
    jobs = [job for item in chosen.items() for job in _jobs(run, store, *item, overrides)]
    if dry_run:
        _tell_plan(jobs)
        return []
    rows = []
    with progress(total=len(jobs), unit="case", what=FOLDER) as bar:
        for job in jobs:
            rows.append(_row(job, overwrite))
            log.info("%s", table.line(rows[-1]))
            bar.update()
    log.info("\n%s", table.text(rows))
    _keep(run.root / FOLDER, rows)
    return [f"{row.label}: {row.problem}" for row in rows if row.problem]


def _chosen(names: Sequence[str], every: bool) -> dict[str, Experiment]:
    """Entries to run, today's last. Raises UserError where one has nothing to run, or none is."""
    if every:
        return {name: x for name, x in entries.load_all().items() if x.story.entries[name].cases}
    chosen = entries.find(names)
    for name, experiment in chosen.items():
        see = experiment.story.entries[name].see
        if see:
            raise UserError(f"there is nothing to run for {name}", do_this=f"see {see}")
    if not chosen:
        raise UserError(
            "no entry was named",
            do_this="name some, such as N34 N35, or give --all; `latentdiff notebook list` "
            "shows them.",
        )
    return {**chosen, **entries.find([TODAY])}


def _jobs(
    run: Run, latents: Path, name: str, experiment: Experiment, overrides: Mapping[str, Any]
) -> Iterator[Job]:
    remembered = config.read_yaml(run.config) if run.config.exists() else {}
    data = {"data": remembered.get("data", {})}
    for case in experiment.story.entries[name].cases:
        values = config.merge(data, experiment.sections, case.settings, overrides)
        project = config.build(Project, values, str(experiment.path))
        folder = case.name.replace(" ", "-").replace("/", "-")
        place = run.root / FOLDER
        shared = place / experiment.path.stem
        yield Job(name, case, project, place / name / folder, shared, latents)


def _tell_plan(jobs: Sequence[Job]) -> None:
    for job in jobs:
        what = {"train": "would train", "command": "would run", "formula": "would compute"}
        log.info("%s: %s in %s", job, what[job.case.how], job.root)
    log.info("dry run: nothing was written")


def _row(job: Job, overwrite: bool) -> Row:
    """Do what the case asks for; a problem that the user can act on is told in its row."""
    return table.row(job.name, job.case, job.project.diffusion.loss, _found(job, overwrite))


def _found(job: Job, overwrite: bool) -> Found:
    case, formula, measured, skill = job.case, None, None, None
    if case.formula is not None:
        formula = formulas.evaluate(case.formula, job.project)
    try:
        with _hushed():
            _work(job, overwrite)
        if case.how != "formula":
            measured = number_at(job.filled(case.at or PLACES[case.measure]))
        if case.how == "train":
            skill = number_at(job.filled(PLACES["skill"]))
    except UserError as error:
        return Found(formula, problem=" ".join(str(error).split()))
    return Found(formula, measured, skill)


def _work(job: Job, overwrite: bool) -> None:
    """Train, and run the case's commands; what is done already is left."""
    if job.case.how == "train":
        train_diffusion(Run(job.root), job.project, latents=job.latents, overwrite=overwrite)
    for line in job.case.commands:
        runs.make_directory(job.root)
        words = [job.filled(word) for word in line.split()]
        _call([*words, "--overwrite"] if overwrite else words, job.root)


def _call(words: Sequence[str], folder: Path) -> None:
    """Run a command of latentdiff; what it prints goes into the folder's `commands.txt`."""
    path = folder / "commands.txt"
    with open(path, "a", encoding="utf-8") as output:
        code = child.wait([sys.executable, "-m", "latentdiff", *words], output)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (EXIT_OK, EXIT_LOSSES):
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


def _keep(folder: Path, rows: Sequence[Row]) -> None:
    """Write the table; rows of earlier commands stay where these do not replace them."""
    path = folder / "table.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = {(row["entry"], row["case"]): Row(**row) for row in earlier}
    kept |= {(row.entry, row.case): row for row in rows}
    every = [kept[key] for key in sorted(kept, key=lambda key: entries.order(key[0]))]
    runs.make_directory(folder)
    runs.write_json(path, [asdict(row) for row in every])
    runs.write_text(folder / "table.txt", table.text(every) + "\n")
    log.info("table: %s", folder / "table.txt")
