"""`runs`: every stage below a folder, its progress and its inputs.

Fast for hundreds of stages: reads only `run.json`, the end of `metrics.jsonl` and the header of the
best weights of each, and takes sizes from the directory listing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.tracking import latest_metrics
from latentdiff.training import comparable

log = logging.getLogger(__name__)

BEST = Path("checkpoints") / "best.safetensors"
LONGEST_HEADER = 1 << 20
"""Bytes; the header of our weights takes a few thousand."""

Status = Literal["running", "done", "failed", "stale", "damaged"]


@dataclass(frozen=True)
class StageRow:
    """One line of the table; None where a value does not apply or is unknown."""

    run: str
    """Folder of the stage, relative to the folder searched."""
    stage: str | None
    """Name of its command."""
    status: Status
    """stale: killed, as it says running but no process holds its lock; damaged: its run.json cannot
    be read."""
    step: int | None
    """Training steps done."""
    skill: float | None
    """1 - loss / baseline on held-out files."""
    best_step: int | None
    """Step of the best weights."""
    started: str | None
    """ISO 8601, UTC."""
    bytes: int
    """Size of all its files."""
    came_from: dict[str, str]
    """Role of an input -> the listed stage that made it, else its path."""
    problem: str | None
    """Why it failed, or how it is damaged."""
    baseline: str = ""
    """The settings that its skill depends on; see `training.comparable`."""


def list_runs(folder: Path) -> list[StageRow]:
    """The stages below `folder`, sorted by path; damaged ones are listed as such.

    Raises UserError if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", do_this="name the folder that holds your runs.")
    folders = sorted(_stages(folder), key=lambda path: path.relative_to(folder).parts)
    places = {path.resolve(): _name(path, folder) for path in folders}
    return [_row(path, folder, places) for path in folders]


def as_json(rows: list[StageRow]) -> str:
    """JSON: a list of objects with the fields of `StageRow`."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)


def as_table(rows: list[StageRow]) -> list[str]:
    """Lines with aligned columns; the first one is the heading."""
    head = ("run", "stage", "status", "step", "skill", "best at", "age", "size", "came from")
    now = datetime.now(timezone.utc)
    table = [head, *(_cells(row, now) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = {0, 1, 2, 8}
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def show(folder: Path) -> None:
    """Log the table, and why stages failed or are damaged."""
    rows = list_runs(folder)
    if not rows:
        log.info("no runs below %s", folder)
        return
    for line in as_table(rows):
        log.info("%s", line)
    skilled = {row.run: row.baseline for row in rows if row.skill is not None}
    if (warning := comparable.warning(skilled)) is not None:
        log.info("%s", warning)
    for row in rows:
        if row.problem:
            log.info("%s: %s", row.run, row.problem)


def _stages(folder: Path) -> Iterator[Path]:
    """Folders with a run.json; stages are never nested."""
    for path, folders, files in os.walk(folder):
        if runs.RUN_FILE in files:
            folders.clear()
            yield Path(path)
        folders[:] = [name for name in folders if not name.startswith(".")]


def _name(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix()
    return path.resolve().name if name == "." else name


def _row(path: Path, folder: Path, places: dict[Path, str]) -> StageRow:
    name, size = _name(path, folder), _size(path)
    try:
        info = runs.read_run(path)
        if info is None:
            raise UserError("its run.json vanished")
    except UserError as error:
        problem = error.what + (f": {error.why}" if error.why else "")
        return StageRow(name, None, "damaged", None, None, None, None, size, {}, problem)
    metrics = _metrics(path)
    killed = info.status == "running" and not runs.is_locked(path)
    step = _first(info.number("step"), metrics.get("step"))
    best = _first(info.number("best_step"), _best_step(path / BEST))
    return StageRow(
        run=name,
        stage=info.stage,
        status="stale" if killed else info.status,
        step=None if step is None else int(step),
        skill=_first(info.number("skill"), metrics.get("validation/skill"), metrics.get("skill")),
        best_step=None if best is None else int(best),
        started=info.started.isoformat(),
        bytes=size,
        # A dotted input is a setting, not a file.
        came_from={
            role: _place(source.path, places)
            for role, source in info.inputs.items()
            if "." not in role
        },
        problem=info.error,
        baseline=comparable.baseline_of(info.config) if info.stage == "train-diffusion" else "",
    )


def _metrics(path: Path) -> dict[str, float]:
    """The newest metrics of a stage that are numbers; none of a damaged file."""
    try:
        newest = latest_metrics(path)
    except (AttributeError, TypeError, ValueError):
        return {}
    return {key: value for key, value in newest.items() if isinstance(value, (int, float))}


def _first(*values: float | None) -> float | None:
    """The first number there is."""
    return next((v for v in values if v is not None and math.isfinite(v)), None)


def _best_step(path: Path) -> int | None:
    """The step in the header of a safetensors file: its length (uint64), then JSON."""
    with suppress(OSError, ValueError, KeyError, TypeError, struct.error), open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length <= LONGEST_HEADER:
            metadata = json.loads(file.read(length))["__metadata__"]
            return int(json.loads(metadata["latentdiff"])["step"])
    return None


def _place(text: str, places: dict[Path, str]) -> str:
    """The listed stage that a path points to or into, else the path itself."""
    # Whatever a run.json calls a path: a loop of links, a name with a zero byte, ...
    with suppress(OSError, ValueError, RuntimeError):
        path = Path(text).resolve()
        for parent in (path, *path.parents):
            if parent in places:
                return places[parent]
    return text


def _size(folder: Path) -> int:
    """Bytes of all files in a folder; files that vanish meanwhile do not count."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    total += _size(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _cells(row: StageRow, now: datetime) -> tuple[str, ...]:
    return (
        row.run,
        f"{row.stage or '-'}{' --distill' if 'teacher' in row.came_from else ''}",
        row.status,
        "-" if row.step is None else f"{row.step:,}",
        "-" if row.skill is None else f"{row.skill:.3f}",
        "-" if row.best_step is None else f"{row.best_step:,}",
        _age(row.started, now),
        _bytes(row.bytes),
        ", ".join(dict.fromkeys(row.came_from.values())) or "-",
    )


def _age(started: str | None, now: datetime) -> str:
    if started is None:
        return "-"
    seconds = (now - datetime.fromisoformat(started)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
