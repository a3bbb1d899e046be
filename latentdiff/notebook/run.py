"""`notebook run`: reruns entries of the notebook on the latents of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from latentdiff import config, runs
from latentdiff.config import Values
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.project import Project
from latentdiff.notebook import entry as entries
from latentdiff.notebook import table
from latentdiff.notebook.bench import Bench, CaseRun
from latentdiff.notebook.entry import TODAY, Experiment
from latentdiff.notebook.table import Row
from latentdiff.runs import Run
from latentdiff.tracking import progress

log = logging.getLogger(__name__)

FOLDER = "notebook"
"""Folder of the run directory with one folder per entry, and the table."""

UNCONDITIONAL: Values = {"condition": {"kinds": []}}
"""The models of the notebook follow nothing, unless an entry says so."""


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
    """Run entries (`every`: all that can be run) on `latents` or the run's own; log all numbers.

    `settings`: KEY=VALUE words that override those of each case. Today's recommended settings are
    trained as well, for comparison. Every case has a folder in RUN/notebook; the same command again
    resumes. Returns the cases that could not be run, with reasons.
    """
    store = latents or run.latents
    # Fails now rather than once for each case.
    LatentStore.open(store)
    options = {"seed": seed, "device": device}
    given = {key: value for key, value in options.items() if value is not None}
    words = config.with_current_names(Project, config.parse_overrides(settings))
    overrides = config.merge(words, given)
    chosen = _chosen(names, every)
    cases = [case for item in chosen.items() for case in _cases(run, store, *item, overrides)]
    if dry_run:
        _log_plan(cases)
        return []
    rows, bench = [], Bench(overwrite)
    with progress(total=len(cases), unit="case", what=FOLDER) as bar:
        for case in cases:
            rows.append(bench.row(case))
            log.info("%s", table.line(rows[-1]))
            bar.update()
    log.info("\n%s", table.text(rows))
    _save(run.root / FOLDER, rows)
    return [f"{row.label}: {row.problem}" for row in rows if row.problem]


def _chosen(names: Sequence[str], every: bool) -> dict[str, Experiment]:
    """Entries to run, today's last. Raises UserError if there are none, or one cannot be run."""
    if every:
        return {name: x for name, x in entries.load_all().items() if x.story.entries[name].cases}
    chosen = entries.find(names)
    for name, experiment in chosen.items():
        see = experiment.story.entries[name].see
        if see:
            raise UserError(f"there is nothing to run for {name}", do_this=f"see {see}.")
    if not chosen:
        raise UserError(
            "no entry was named",
            do_this="name some, such as N34 N35, or use --all; `latentdiff notebook list` shows "
            "all of them.",
        )
    return {**chosen, **entries.find([TODAY])}


def _cases(
    run: Run, latents: Path, name: str, experiment: Experiment, overrides: Values
) -> Iterator[CaseRun]:
    remembered = config.read_yaml(run.config) if run.config.exists() else {}
    # The run's own settings of its latents apply unless the entry's file overrides them.
    own: Values = {key: remembered[key] for key in ("data", "latents") if key in remembered}
    for case in experiment.story.entries[name].cases:
        values = config.merge(UNCONDITIONAL, own, experiment.sections, case.settings, overrides)
        project = config.build(Project, values, str(experiment.path))
        folder = case.name.replace(" ", "-").replace("/", "-")
        place = run.root / FOLDER
        shared = place / experiment.path.stem
        yield CaseRun(name, case, project, place / name / folder, shared, latents)


def _log_plan(cases: Sequence[CaseRun]) -> None:
    what = {"train": "would train", "command": "would run", "formula": "would compute"}
    for case_run in cases:
        log.info("%s: %s in %s", case_run, what[case_run.case.how], case_run.root)
    log.info("dry run: nothing was written")


def _save(folder: Path, rows: Sequence[Row]) -> None:
    """Write the table; rows of earlier commands stay unless these replace them."""
    path = folder / "table.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = {(row["entry"], row["case"]): Row(**row) for row in earlier}
    kept |= {(row.entry, row.case): row for row in rows}
    every = [kept[key] for key in sorted(kept, key=lambda key: entries.order(key[0]))]
    runs.make_directory(folder)
    runs.write_json(path, [asdict(row) for row in every])
    runs.write_text(folder / "table.txt", table.text(every) + "\n")
    log.info("table: %s", folder / "table.txt")
