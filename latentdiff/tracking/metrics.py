"""`metrics.jsonl`: one JSON object a line, told once a step however often a run was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentdiff import runs
from latentdiff.tracking.backend import Backend

METRICS_FILE = "metrics.jsonl"
TAIL = 1 << 14
"""Bytes at the end of the file that `latest_metrics` reads."""


class Metrics(Backend):
    """Appends lines. Those after `resume_step` (None: all) are forgotten first.

    A line is handed to the system before the step goes on, so that none is lost to a kill.
    """

    def __init__(self, directory: Path, resume_step: int | None) -> None:
        path = directory / METRICS_FILE
        if path.exists():
            last = -1 if resume_step is None else resume_step
            rows = [row for row in read_metrics(directory) if row.get("step", 0) <= last]
            runs.write_jsonl(path, rows)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The metrics of a stage, without a last line that a kill cut in two."""
    path = directory / METRICS_FILE
    return _rows(path.read_bytes().splitlines()) if path.exists() else []


def latest_metrics(directory: Path) -> dict[str, Any]:
    """The newest value of each metric of a stage, from the end of its file only; may be empty."""
    try:
        with open(directory / METRICS_FILE, "rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(start)
            lines = file.read().splitlines()
    except OSError:
        return {}
    # Unless it is the file's beginning, the first line lacks its head.
    rows = _rows(lines[1:] if start else lines)
    return {key: value for row in rows for key, value in row.items()}


def _rows(lines: list[bytes]) -> list[dict[str, Any]]:
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
