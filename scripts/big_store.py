"""Measures memory and speed of training on two million frames of 128 latents and on a small store.

    python scripts/big_store.py --out runs/big

Both stores are plain folders of `.npy`, made up, all directions kept; what the trainer holds of
them is memory-mapped (`training.memory_gb` 0). Each trains in a process of its own, and once both
have begun they run in turns, one stopped while the other works, so that other load on the machine
affects both alike. Peak: the largest resident size of the process. Of it, pages of mapped files
can be dropped by the kernel whenever memory is needed, so the peak without them is reported too
(polled 20 times a second).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from loops import slow_noise
from measuring import cpu_name, latentdiff, markdown, median_ratio, memory_kilobytes

from latentdiff import runs
from latentdiff.tracking import read_metrics

DIMENSIONS = 128
FILE = 100_000
"""Frames of a file."""
POLL = 0.05
"""Seconds between measurements of a process."""


@dataclass
class Training:
    """A training process that logs every step."""

    process: subprocess.Popen[str]
    folder: Path
    paces: list[float] = field(default_factory=list)
    """Steps per second in each turn."""
    waits: list[float] = field(default_factory=list)
    """Share of the time spent waiting for data in each turn."""
    resident: int = 0
    anonymous: int = 0
    """Peak in kilobytes."""

    def poll_memory(self) -> None:
        """Update the peaks. Raises RuntimeError if the process has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the training has ended: see {self.folder / 'log.txt'}")
        sizes = memory_kilobytes(self.process.pid)
        self.resident = max(self.resident, sizes.get("VmHWM", 0))
        self.anonymous = max(self.anonymous, sizes.get("RssAnon", 0))

    def begin(self) -> None:
        """Wait for its first step, then stop it."""
        while not self._lines():
            self.poll_memory()
            time.sleep(POLL)
        self.process.send_signal(signal.SIGSTOP)

    def take(self, seconds: float) -> None:
        """Let it run for `seconds`, and record its speed."""
        before = len(self._lines())
        self.process.send_signal(signal.SIGCONT)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(POLL)
            self.poll_memory()
        self.process.send_signal(signal.SIGSTOP)
        # The first line covers a step that was interrupted by the stop.
        lines = self._lines()[before + 1 :]
        self.paces.append(1 / statistics.median(line["step_seconds"] for line in lines))
        self.waits.append(statistics.median(line["data_wait"] for line in lines))

    def end(self) -> None:
        """Let it write its checkpoint and exit."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def _lines(self) -> list[dict[str, float]]:
        return [line for line in read_metrics(self.folder) if "step_seconds" in line]


def main() -> None:
    options = arguments()
    stores = {"big": options.frames, "small": options.small}
    for name, frames in stores.items():
        make_store(options.out / f"latents-{name}", frames)
    found = {name: start(options, name) for name in stores}
    try:
        for training in found.values():
            training.begin()
        for _ in range(options.turns):
            for training in found.values():
                training.take(options.seconds)
    finally:
        for training in found.values():
            training.end()
    print(f"{options.threads} threads of {cpu_name()}\n\n{table(found, stores)}\n")
    ratio = median_ratio(found["big"].paces, found["small"].paces)
    print(f"steps/s of the big store over the small one, median of {options.turns}: {ratio:.3f}")
    if not options.keep:
        shutil.rmtree(options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="for the stores (1 GB) and runs")
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--small", type=int, default=20_000, help="frames of the small store")
    parser.add_argument("--turns", type=int, default=10, help="of each")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
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


def start(options: argparse.Namespace, name: str) -> Training:
    run = runs.Run(options.out / f"run-{name}")
    process = latentdiff(
        *("train-diffusion", "--run", run.root, "--device", "cpu", "--overwrite"),
        *("--latents", options.out / f"latents-{name}"),
        "latents.keep=all",
        "training.steps=1000000",
        "training.memory_gb=0",
        "training.log_every=1",
        # A validation now and then, for the memory that it takes.
        "training.validate_every=50",
        "training.demo_samples=0",
        threads=options.threads,
        stdout=subprocess.DEVNULL,
    )
    return Training(process, run.diffusion)


def table(found: dict[str, Training], stores: dict[str, int]) -> str:
    return markdown(
        [
            {
                "store": name,
                "frames": stores[name],
                "peak MB": training.resident // 1024,
                "peak without files MB": training.anonymous // 1024,
                "steps/s": statistics.median(training.paces),
                "data wait %": 100 * statistics.median(training.waits),
            }
            for name, training in found.items()
        ]
    )


if __name__ == "__main__":
    main()
