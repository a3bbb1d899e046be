"""`runs`: every stage below a folder, how far it is and what it came from.

Quick on hundreds: of a stage only `run.json`, the end of `metrics.jsonl` and the header of the
best weights are read; sizes come from the directory listing.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.runs import RunInfo
from latentdiff.tracking import latest_metrics

log = logging.getLogger(__name__)

BEST = Path("checkpoints") / "best.safetensors"
LONGEST_HEADER = 1 << 20
"""Bytes; the header of our weights is a few thousand."""


@dataclass(frozen=True)
class Listed:
    """One stage as it is listed; None where it does not apply or is not known."""

    run: str
    """Its folder, relative to the one that was searched."""
    stage: str | None
    status: str
    """running, done, failed, stale (killed: it says running, but nothing holds its lock), or
    damaged (its run.json cannot be read)."""
    step: int | None
    skill: float | None
    best_step: int | None
    started: str | None
    """ISO 8601."""
    bytes: int
    """Of all its files."""
    came_from: dict[str, str]
    """Input -> the listed stage it lies in, else its path."""
    problem: str | None
    """Why it failed, or is damaged."""


def list_runs(folder: Path) -> list[Listed]:
    """The stages below `folder`, sorted by their paths.

    Raises UserError where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", do_this="name the folder that holds your runs.")
    found = sorted(_stages(folder), key=lambda path: path.relative_to(folder).parts)
    places = {path.resolve(): _name(path, folder) for path in found}
    return [_listed(path, folder, places) for path in found]


def as_json(rows: list[Listed]) -> str:
    """For programs: a list of objects with the fields of `Listed`."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)


def as_table(rows: list[Listed]) -> list[str]:
    """For people: lines of aligned columns, the first one the heading."""
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


def tell(folder: Path) -> None:
    """Log the table, and what went wrong where something did."""
    rows = list_runs(folder)
    if not rows:
        log.info("no runs below %s", folder)
        return
    for line in as_table(rows):
        log.info("%s", line)
    for row in rows:
        if row.problem:
            log.info("%s: %s", row.run, row.problem)


def _stages(folder: Path) -> Iterator[Path]:
    """Folders with a run.json; nothing below one is another."""
    for path, folders, files in os.walk(folder):
        if runs.RUN_FILE in files:
            folders.clear()
            yield Path(path)
        folders[:] = [name for name in folders if not name.startswith(".")]


def _name(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix()
    return path.resolve().name if name == "." else name


def _listed(path: Path, folder: Path, places: dict[Path, str]) -> Listed:
    name, size = _name(path, folder), _size(path)
    try:
        info = runs.read_run(path)
        assert info is not None  # the walk saw its run.json
        return _described(name, path, info, size, places)
    except UserError as error:
        problem = error.what + (f": {error.why}" if error.why else "")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"{path / runs.RUN_FILE} is not as latentdiff writes it: {error!r}"
    return Listed(name, None, "damaged", None, None, None, None, size, {}, problem)


def _described(name: str, path: Path, info: RunInfo, size: int, places: dict[Path, str]) -> Listed:
    status: str = info.status
    result, metrics = info.result, latest_metrics(path)
    if status == "running" and not runs.is_locked(path):
        status = "stale"
    return Listed(
        run=name,
        stage=info.stage,
        status=status,
        step=result.get("step", metrics.get("step")),
        skill=result.get("skill", metrics.get("validation/skill", metrics.get("skill"))),
        best_step=result.get("best_step", _best_step(path / BEST)),
        started=info.started.isoformat(),
        bytes=size,
        # A dotted input is a setting, not a file.
        came_from={
            key: _place(value.path, places) for key, value in info.inputs.items() if "." not in key
        },
        problem=info.error,
    )


def _best_step(path: Path) -> int | None:
    """The step in the header of a safetensors file: its length (uint64), then JSON."""
    with suppress(OSError, ValueError, KeyError, TypeError, struct.error), open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length <= LONGEST_HEADER:
            metadata = json.loads(file.read(length))["__metadata__"]
            return int(json.loads(metadata["latentdiff"])["step"])
    return None


def _place(text: str, places: dict[Path, str]) -> str:
    """The listed stage that a path is or lies in, else the path itself."""
    path = Path(text).resolve()
    for parent in (path, *path.parents):
        if parent in places:
            return places[parent]
    return text


def _size(folder: Path) -> int:
    """Bytes of all files in a folder; those that vanish meanwhile do not count."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    total += _size(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _cells(row: Listed, now: datetime) -> tuple[str, ...]:
    return (
        row.run,
        row.stage or "-",
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
