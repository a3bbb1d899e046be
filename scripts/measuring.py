"""Helpers for the scripts: timing in turns, medians, memory, tables, child processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Row = Mapping[str, object]


def in_turns(loops: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each loop, run after each other `repeats` times, after a warm-up round."""
    times: list[list[float]] = [[] for _ in loops]
    for repeat in range(repeats + 1):
        for loop, seconds in zip(loops, times, strict=True):
            start = time.perf_counter()
            loop()
            if repeat:
                seconds.append(time.perf_counter() - start)
    return times


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median ratio of times measured in turns: other load on the machine affects both sides."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_kilobytes() -> int:
    """Peak memory of this process. Not ru_maxrss: a child inherits that of its parent."""
    return memory_kilobytes("self")["VmHWM"]


def memory_kilobytes(process: int | str) -> dict[str, int]:
    """Memory of a process: VmHWM, its peak resident size, and RssAnon, its current memory that is
    not mapped from files, which the kernel cannot drop. Empty if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith(("VmHWM", "RssAnon")))
    return {field[0].rstrip(":"): int(field[1]) for field in fields}


def cpu_name() -> str:
    """Name of the processor, and its number of threads."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} threads"
    return f"unknown processor, {os.cpu_count()} threads"


def latentdiff(
    *words: object, threads: int | None = None, **options: object
) -> subprocess.Popen[str]:
    """Start the command line in a child process; further options are Popen's."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "latentdiff", *map(str, words)]
    return subprocess.Popen(command, env=environment, text=True, **options)  # type: ignore


def run_latentdiff(*words: object, threads: int | None = None) -> str:
    """Run a command and return its output. Raises RuntimeError with its last lines if it fails."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    child = latentdiff(*words, threads=threads, **pipes)
    output, _ = child.communicate()
    if child.returncode:
        tail = "\n".join(output.splitlines()[-20:])
        raise RuntimeError(f"latentdiff {' '.join(map(str, words))} failed:\n{tail}")
    return output


def markdown(rows: Sequence[Row]) -> str:
    """A table with a column for every key of the first row; floats in at least three digits."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_cell(row.get(n)) for n in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
