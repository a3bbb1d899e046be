"""Trains on two million frames of 128 latents, and tells memory and pace beside a small store.

    python scripts/big_store.py --out runs/big --steps 300

Both stores are plain folders of `.npy`, made up, all directions kept; what the trainer holds of
them is memory-mapped (`training.memory_gb` 0). They train in turns in processes of their own.
Peak: the largest resident size of the process. Of it, pages of mapped files are the kernel's to
drop whenever memory is wanted, so the peak without them is told too (looked at 20 times a second).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from loops import slow_noise
from measuring import cpu_name, latentdiff, markdown, memory_kilobytes

from latentdiff import runs

DIMENSIONS = 128
FILE = 100_000
"""Frames of a file."""


def main() -> None:
    options = arguments()
    stores = {"big": options.frames, "small": options.small}
    for name, frames in stores.items():
        make_store(options.out / f"latents-{name}", frames)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
    for repeat in range(options.repeats):
        for name in stores:
            found[name].append(train(options, name, repeat))
            print(name, found[name][-1], flush=True)
    rows = [
        {"store": name, "frames": stores[name]}
        | {key: statistics.median(x[key] for x in each) for key in each[0]}
        for name, each in found.items()
    ]
    ratio = statistics.median(
        b["steps/s"] / s["steps/s"] for b, s in zip(found["big"], found["small"], strict=True)
    )
    print(f"{options.steps} steps, {options.threads} threads of {cpu_name()}\n\n{markdown(rows)}\n")
    print(f"steps/s of the big store over the small one: {ratio:.3f}")
    if not options.keep:
        shutil.rmtree(options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="for the stores (1 GB) and runs")
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--small", type=int, default=20_000, help="frames of the small store")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep --out")
    return parser.parse_args()


def make_store(folder: Path, frames: int) -> None:
    """Files of noise, each of as many frames as there are in one, or a tenth of them all."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    length = min(FILE, frames // 10)
    once = slow_noise(rng, DIMENSIONS, length)
    for number in range(frames // length):
        path = folder / f"{number:03d}.npy"
        if not path.exists():
            # Rolled and reordered: other frames at every place, without the time to draw them.
            z = np.roll(once[rng.permutation(DIMENSIONS)], int(rng.integers(length)), axis=1)
            np.save(path, np.asfortranarray(z))


def train(options: argparse.Namespace, name: str, repeat: int) -> dict[str, float]:
    run = runs.Run(options.out / f"run-{name}-{repeat}")
    child = latentdiff(
        *("train-diffusion", "--run", run.root, "--device", "cpu", "--overwrite"),
        *("--latents", options.out / f"latents-{name}"),
        "latents.keep=all",
        f"training.steps={options.steps}",
        "training.memory_gb=0",
        "training.log_every=10",
        "training.demo_samples=0",
        threads=options.threads,
        stdout=subprocess.DEVNULL,
    )
    resident = anonymous = 0
    while child.poll() is None:
        sizes = memory_kilobytes(child.pid)
        resident = max(resident, sizes.get("VmHWM", 0))
        anonymous = max(anonymous, sizes.get("RssAnon", 0))
        time.sleep(0.05)
    if child.returncode:
        raise RuntimeError(f"training on the {name} store failed")
    lines = [r for r in runs.read_jsonl(run.diffusion / "metrics.jsonl") if "step_seconds" in r]
    # The first lines are warmth.
    seconds = statistics.median(line["step_seconds"] for line in lines[2:])
    wait = statistics.median(line["data_wait"] for line in lines[2:])
    return {
        "peak MB": resident / 1024,
        "peak without files MB": anonymous / 1024,
        "steps/s": 1 / seconds,
        "data wait %": 100 * wait,
    }


if __name__ == "__main__":
    main()
