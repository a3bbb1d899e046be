"""`notebook run`: entries of the notebook, seen again on the latents at hand."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentdiff import config, runs
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.project import Project
from latentdiff.notebook import entry as entries
from latentdiff.notebook import table
from latentdiff.notebook.bench import Bench, Job
from latentdiff.notebook.entry import TODAY, Experiment
from latentdiff.notebook.table import Row
from latentdiff.runs import Run
from latentdiff.tracking import progress

log = logging.getLogger(__name__)

FOLDER = "notebook"
"""Of the run directory: a folder an entry, and the table."""


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
    where = latents or run.latents
    # Better now than once for each case.
    LatentStore.open(where)
    options = {"seed": seed, "device": device}
    given = {key: value for key, value in options.items() if value is not None}
    overrides = config.merge(config.parse_overrides(settings), given)
    chosen = _chosen(names, every)
    jobs = [job for item in chosen.items() for job in _jobs(run, where, *item, overrides)]
    if dry_run:
        _tell_plan(jobs)
        return []
    rows, bench = [], Bench(overwrite)
    with progress(total=len(jobs), unit="case", what=FOLDER) as bar:
        for job in jobs:
            rows.append(bench.row(job))
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
    # What the run has decided about its latents holds where the file does not say otherwise.
    own: dict[str, Any] = {key: remembered[key] for key in ("data", "latents") if key in remembered}
    for case in experiment.story.entries[name].cases:
        values = config.merge(own, experiment.sections, case.settings, overrides)
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
