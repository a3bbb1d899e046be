"""`metrics.jsonl`: a JSON object per line, each step once however often the run was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from latentdiff import runs
from latentdiff.tracking.backend import Backend

METRICS_FILE = "metrics.jsonl"
TAIL = 1 << 14
"""Bytes at the end of the file that `latest_metrics` reads."""

MetricsRow = dict[str, float]
"""A line of the file: `step`, and metrics by name."""


class Metrics(Backend):
    """Appends lines. Earlier lines after `resume_step` (None: all) are removed first.

    Lines are flushed one by one, so that a kill loses none.
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


def read_metrics(directory: Path) -> list[MetricsRow]:
    """The metrics of a stage, without a last line that a kill left incomplete."""
    path = directory / METRICS_FILE
    return _rows(path.read_bytes().splitlines()) if path.exists() else []


def latest_metrics(directory: Path) -> MetricsRow:
    """The latest value of each metric of a stage, from the end of its file; may be empty."""
    try:
        with open(directory / METRICS_FILE, "rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(start)
            lines = file.read().splitlines()
    except OSError:
        return {}
    # The first line is incomplete, unless it is the beginning of the file.
    rows = _rows(lines[1:] if start else lines)
    return {key: value for row in rows for key, value in row.items()}


def _rows(lines: list[bytes]) -> list[MetricsRow]:
    rows: list[MetricsRow] = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
