"""Tests latentdiff on an NVIDIA card and measures it, in minutes: start it by scripts/gpu_check.sh.

Every part runs in a process of its own (gpu_parts.py) with a time limit. What fails or finds no
time is a line of the table with its reason, and all the rest goes on. Without a card, or with
`--cpu`, the same is done in miniature: that shows that the check works, and measures nothing.

Utilisation: the operations of convolutions and matrix products over those of one large product of
matrices in the same precision in the same time. fp32 is without TF32, tf32 with it, as the trainers
of RAVE set it; bf16 is bf16-mixed. Peak GB is the memory of all tensors at most; on a CPU, that of
the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from measuring import cpu_name, markdown

ROOT = Path(__file__).parent.parent
LIMIT = "matrix product"
Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Job:
    """Something to measure or to test."""

    kind: str
    """Which function of gpu_parts.py does it."""
    lines: tuple[str, ...]
    """The names of its lines in the table."""
    precision: Precision | None = None
    """None: it is no computation of one precision."""
    compiled: bool = False


@dataclass(frozen=True)
class Part:
    """Jobs that share a process."""

    seconds: float
    """It may take no longer on a card."""
    jobs: tuple[Job, ...]
    optional: bool = False
    """Whether the miniature leaves it out: compiling takes a minute on a CPU."""


TRAINING = ("train-diffusion, a step",)
RAVE_TRAINING = ("train-rave phase 1, a step", "train-rave phase 2, a step")
CODEC = ("encode", "decode")

# In the order of their importance: all together they may take longer than there is time.
PARTS = {
    "diffusion": Part(
        100,
        (
            *(Job("limit", (LIMIT,), precision) for precision in PRECISIONS),
            *(Job("diffusion_training", TRAINING, precision) for precision in PRECISIONS),
            *(Job("sampling", ("sample",), precision) for precision in PRECISIONS[:2]),
        ),
    ),
    "rave": Part(
        180,
        (
            *(Job("rave_training", RAVE_TRAINING, precision) for precision in PRECISIONS),
            *(Job("codec", CODEC, precision) for precision in PRECISIONS[:2]),
        ),
    ),
    "tests": Part(90, (Job("tests", ("tests marked gpu",)),)),
    "compiled-diffusion": Part(
        90,
        tuple(Job("diffusion_training", TRAINING, p, compiled=True) for p in PRECISIONS[1:]),
        optional=True,
    ),
    "compiled-rave": Part(
        120,
        tuple(Job("rave_training", RAVE_TRAINING, p, compiled=True) for p in PRECISIONS[1:]),
        optional=True,
    ),
}


@dataclass(frozen=True)
class Figures:
    """What a job measured for one of its lines. None: not measured, or without meaning."""

    steps: float | None = None
    """A second."""
    audio: float | None = None
    """Seconds of it, a second."""
    data_wait: float | None = None
    """Share 0..1 of the time spent waiting for data."""
    flops: float | None = None
    """Operations a second."""
    peak_bytes: int | None = None
    """Of memory."""
    note: str = "ok"


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    name: str
    precision: Precision | None = None
    compiled: bool = False
    figures: Figures | None = None
    """None: it failed."""
    reason: str = ""
    """Why it failed."""


def main() -> int:
    options = arguments()
    begun = time.monotonic()
    device = "cpu" if options.cpu or not torch.cuda.is_available() else "cuda"
    names = options.parts or [n for n, p in PARTS.items() if device == "cuda" or not p.optional]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    log = options.out.with_suffix(".log")
    log.write_text("")
    lines: list[Line] = []
    for name in names:
        left = begun + options.seconds - time.monotonic()
        print(f"== {name}, {max(0, left):.0f} s left of {options.seconds:.0f}", flush=True)
        # The miniature is to end well, however slow the machine.
        limit = min(PARTS[name].seconds, left) if device == "cuda" else left
        lines += run_part(name, device, limit, log)
        # After every part, in case that the whole is ended from outside.
        text = report(lines, device, time.monotonic() - begun)
        options.out.write_text(text)
    print(f"\n{text}\nThis is {options.out}; what the parts printed is in {log}")
    return int(any(line.figures is None for line in lines))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="in miniature, on the CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="only these")
    parser.add_argument("--seconds", type=float, default=470, help="time limit of all parts")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "gpu_check.md", help="the table, as Markdown"
    )
    return parser.parse_args()


def run_part(name: str, device: str, seconds: float, log: Path) -> list[Line]:
    """Run a part in a process; a line of the table for each that its jobs promise."""
    with tempfile.TemporaryDirectory() as scratch, log.open("a") as output:
        lines = Path(scratch) / "lines.jsonl"
        script = [sys.executable, str(Path(__file__).with_name("gpu_parts.py"))]
        process = subprocess.Popen(
            [*script, name, "--device", device, "--lines", str(lines)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            # What it leaves behind when it is killed goes with the folder,
            env={**os.environ, "TMPDIR": scratch},
            # and the processes that it has started go with its session.
            start_new_session=True,
        )
        end = end_of(process, seconds, log)
        found = list(read(lines))
    missing = promised(jobs_of(name, device))[len(found) :]
    return found + [replace(line, reason=end) for line in missing]


def end_of(process: subprocess.Popen[bytes], seconds: float, log: Path) -> str:
    """How a process ended that has so much time, and the last that it wrote to its log."""
    try:
        code = process.wait(max(0, seconds))
    except subprocess.TimeoutExpired:
        return f"no time left after {max(0, seconds):.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    written = log.read_text().strip().splitlines() or [""]
    return f"its process ended with {code}: {written[-1]}"


def jobs_of(part: str, device: str) -> list[Job]:
    """The jobs of a part that the device can do: TF32 is CUDA's alone."""
    return [job for job in PARTS[part].jobs if device == "cuda" or job.precision != "tf32"]


def promised(jobs: Sequence[Job]) -> list[Line]:
    """Their lines, in the same order, without figures."""
    return [Line(name, job.precision, job.compiled) for job in jobs for name in job.lines]


def write(path: Path, lines: Sequence[Line]) -> None:
    """Add lines to those that the process has written so far."""
    with path.open("a") as file:
        file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)


def read(path: Path) -> Iterator[Line]:
    """The lines that were written, if any were."""
    for text in path.read_text().splitlines() if path.exists() else ():
        values = json.loads(text)
        figures = values.pop("figures")
        yield Line(**values, figures=figures and Figures(**figures))


def report(lines: Sequence[Line], device: str, seconds: float) -> str:
    """The table, under what it was measured on."""
    python, torch_ = f"Python {platform.python_version()}", f"torch {torch.__version__}"
    if device == "cuda":
        where, note = torch.cuda.get_device_name(), ""
    else:
        where, note = cpu_name(), "In miniature, on the CPU: the figures mean nothing.\n\n"
    rows = [row(line, lines) for line in lines]
    return f"{where}; {torch_}; {python}; {seconds:.0f} s\n\n{note}{markdown(rows)}\n"


def row(line: Line, lines: Sequence[Line]) -> dict[str, object]:
    """A line as the table shows it, beside the limit of its precision."""
    figures = line.figures or Figures()
    flops, limit = flops_of(line, lines), flops_of(Line(LIMIT, line.precision), lines)
    compiled = "on" if line.compiled else "off"
    return {
        "what": line.name,
        "precision": line.precision,
        "compile": compiled if figures.steps or line.compiled else None,
        "steps/s": figures.steps,
        "audio s/s": figures.audio,
        "data wait %": scaled(figures.data_wait, 100),
        "TFLOP/s": scaled(flops, 1e-12),
        "utilisation %": 100 * flops / limit if flops and limit else None,
        "peak GB": scaled(figures.peak_bytes, 1e-9),
        "result": figures.note if line.figures else f"FAILED: {line.reason}",
    }


def flops_of(line: Line, lines: Sequence[Line]) -> float | None:
    """Operations a second of the line of this name, precision and compilation.

    A compiled step is not counted: its operations are those of the same step uncompiled.
    """
    key = (line.name, line.precision)
    found = {
        other.compiled: other.figures
        for other in lines
        if (other.name, other.precision) == key and other.figures
    }
    own, plain = found.get(line.compiled), found.get(False)
    if own is None or own.flops is not None:
        return own and own.flops
    if own.steps and plain and plain.steps and plain.flops:
        return own.steps * plain.flops / plain.steps
    return None


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


if __name__ == "__main__":
    sys.exit(main())
