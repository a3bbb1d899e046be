"""Kills a training twenty times at random moments and compares it with an uninterrupted one.

    python scripts/kill_resume.py --out runs/kill --kills 20

Both are `latentdiff train-diffusion` on the same made-up latents in processes of their own, killed
by SIGKILL anywhere between their start and their end, and started again by the same command. At
the end weights, averages and optimiser must be equal bit for bit, no file left that the
undisturbed run does not have, and no line of metrics lost, doubled or different (but for times).
Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loops import slow_noise
from measuring import latentdiff, run_latentdiff

from latentdiff import runs
from latentdiff.training import checkpoint

TIMES = ("seconds", "hours", "per_second", "data_wait", "share_of_time")
"""Parts of the names of metrics that depend on the clock."""
START = 5.0
"""Longest start-up time of a training in seconds."""


def main() -> None:
    options = arguments()
    draw = random.Random(options.seed)
    if options.out.exists():
        sys.exit(f"{options.out} exists already; remove it or choose another --out")
    latents = options.out / "latents"
    make_latents(latents)
    words = [*("--latents", latents, "--device", "cpu"), *settings(options.steps)]

    def command(name: str) -> list[object]:
        return ["train-diffusion", "--run", options.out / name, *words]

    begun = time.monotonic()
    run_latentdiff(*command("whole"), threads=1)
    undisturbed = time.monotonic() - begun
    print(f"undisturbed: {undisturbed:.1f} s")
    # So that all kills together fit into one training, even if it goes twice as fast.
    longest = undisturbed / options.kills / 2
    killed = 0
    parts = options.out / "parts" / "diffusion"
    while killed < options.kills:
        killed += kill_once(command("parts"), parts, draw, longest)
        print(f"killed {killed} times; at step {last_step(parts)} of {options.steps}", flush=True)
        if finished(parts):
            sys.exit("it ended before it was killed often enough: give more --steps")
    run_latentdiff(*command("parts"), threads=1)
    faults = differences(options.out / "whole" / "diffusion", parts)
    print(
        "\n".join(faults) or f"equal bit for bit after {killed} kills; nothing left, lost, doubled"
    )
    if not faults and not options.keep:
        shutil.rmtree(options.out)
    sys.exit(1 if faults else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", action="store_true", help="keep --out even if all is well")
    return parser.parse_args()


def make_latents(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(6):
        np.save(folder / f"{number}.npy", slow_noise(rng, 4, 2000))


def settings(steps: int) -> list[str]:
    """Something of everything: lines, validations, best, kept checkpoints, several averages."""
    return [
        f"training.steps={steps}",
        "network.name=diffwave",
        "network.channels=16",
        "network.blocks=4",
        "network.dropout=0.1",
        "training.batch=8",
        "training.window=32",
        "training.log_every=10",
        "training.validate_every=50",
        "training.checkpoint_every=20",
        "training.keep_every=100",
        "training.keep_last=3",
        "training.validation_windows=8",
        "training.ema_halflives=[200,1000]",
        "training.demo_samples=0",
        "diffusion.levels.name=adaptive",
    ]


def kill_once(command: list[object], folder: Path, draw: random.Random, longest: float) -> int:
    """Start it and kill it: one time in four while it starts, else within `longest` seconds of
    training."""
    written = size(folder)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = latentdiff(*command, threads=1, **quiet)
    if draw.random() < 0.25:
        longest = START
    else:
        while size(folder) == written and child.poll() is None:
            time.sleep(0.01)
    time.sleep(draw.uniform(0, longest))
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


def size(folder: Path) -> int:
    """Bytes of the metrics file, which grows while training runs."""
    path = folder / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def finished(folder: Path) -> bool:
    info = runs.read_run(folder)
    return info is not None and info.is_done


def last_step(folder: Path) -> int:
    """Step of the newest complete checkpoint."""
    state = checkpoint.load_newest_state(folder) if folder.exists() else None
    return 0 if state is None else state["step"]


def differences(whole: Path, parts: Path) -> list[str]:
    """Differences from the uninterrupted run, one line each."""
    faults = []
    states = [checkpoint.load_state(checkpoint.state(folder)) for folder in (whole, parts)]
    for key in ("step", "seen", "model", "ema", "more_ema", "optimizer", "levels"):
        if not same(states[0][key], states[1][key]):
            faults.append(f"{key} differs")
    names = [names_in(folder) for folder in (whole, parts)]
    faults += [f"{name} is left over" for name in sorted(names[1] - names[0])]
    faults += [f"{name} is missing" for name in sorted(names[0] - names[1])]
    for path in sorted((whole / checkpoint.FOLDER).glob("*.safetensors")):
        other = parts / checkpoint.FOLDER / path.name
        if other.exists():
            a, b = (checkpoint.load_weights(x).tensors for x in (path, other))
            if not same(a, b):
                faults.append(f"{path.name} differs")
    lines = [runs.read_jsonl(folder / "metrics.jsonl") for folder in (whole, parts)]
    steps = [[(row["step"], sorted(row)) for row in rows] for rows in lines]
    if steps[0] != steps[1]:
        faults.append(f"metrics: {len(lines[1])} lines, not {len(lines[0])}, or others")
    elif [timeless(row) for row in lines[0]] != [timeless(row) for row in lines[1]]:
        faults.append("metrics: values differ")
    return faults


def names_in(folder: Path) -> set[str]:
    """All files but those of TensorBoard, which have the time in their names."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if "tfevents" not in path.name}


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not any(word in key for word in TIMES)}


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, all the way down."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


if __name__ == "__main__":
    main()
