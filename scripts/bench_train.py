"""Benchmarks training on this machine: steps and seconds of audio per second, and data wait.

    python scripts/bench_train.py --networks diffwave unet1d --batches 8 32 --windows 128
    python scripts/bench_train.py --device cuda --precisions 32 bf16-mixed --compile off on

Every cell of the grid is a run of the real trainer on made-up latents, without validation and
demos. Cells take turns, so that other load affects all of them; the figures are
medians. Data wait: share of the time spent on cutting windows and drawing noise. Utilisation: the
operations of the network's products, forward and backward, over those of one large product of
matrices in the same precision in the same time; on a GPU 32 bit stands for TF32, which convolutions
use. Seconds of audio are those of the training windows, at RAVE v2's pace at 44.1 kHz.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from loops import FRAMES, UncompiledError, measure_training, product_limit, slow_noise, tf32
from measuring import cpu_name, markdown

from latentdiff.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One set of settings."""

    network: str
    batch: int
    window: int
    precision: str
    threads: int
    compiled: bool


def main() -> None:
    options = arguments()
    cells = [
        Cell(*choice)
        for choice in itertools.product(
            options.networks,
            options.batches,
            options.windows,
            options.precisions,
            options.threads,
            [word == "on" for word in options.compile],
        )
    ]
    latents = slow_noise(np.random.default_rng(0), options.channels, FRAMES)
    limits = {(cell.precision, cell.threads): limit_of(cell, options.device) for cell in cells}
    found: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in cells}
    for _ in range(options.repeats):
        for cell in cells:
            found[cell].append(measure(cell, latents, options))
    rows = [row(cell, found[cell], limits[cell.precision, cell.threads]) for cell in cells]
    where = torch.cuda.get_device_name() if options.device == "cuda" else cpu_name()
    print(f"{where}; torch {torch.__version__}; medians of {options.repeats}\n\n{markdown(rows)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["diffwave"], help="name or name:channels")
    parser.add_argument("--batches", type=int, nargs="+", default=[32])
    parser.add_argument("--windows", type=int, nargs="+", default=[128], help="latent frames")
    parser.add_argument("--precisions", nargs="+", default=["32"])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--compile", nargs="+", choices=["off", "on"], default=["off"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--channels", type=int, default=12, help="latent directions")
    parser.add_argument("--steps", type=int, default=40, help="of a run; the second half counts")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def measure(cell: Cell, latents: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """What `measure_training` gives for a cell; {} where it fails."""
    torch.set_num_threads(cell.threads)
    name, _, width = cell.network.partition(":")
    training = {
        "steps": options.steps,
        "log_every": max(1, options.steps // 2),
        "batch": cell.batch,
        "window": cell.window,
        "precision": cell.precision,
        "compile": cell.compiled,
        "demo_samples": 0,
    }
    network = {"name": name, "channels": int(width) if width else None}
    values = {"network": network, "training": training}
    try:
        return measure_training(values, latents, options.device)
    except (UserError, UncompiledError) as error:
        print(f"{cell}: {error}")
        return {}


def row(cell: Cell, lines: list[dict[str, Any]], limit: float) -> dict[str, object]:
    """Table row; cells are empty if it failed."""
    lines = [line for line in lines if line]
    out: dict[str, object] = {
        "network": cell.network,
        "batch": cell.batch,
        "window": cell.window,
        "precision": cell.precision,
        "threads": cell.threads,
        "compile": "on" if cell.compiled else "off",
    }
    if not lines:
        return out
    median = {key: statistics.median(line[key] for line in lines) for key in lines[0]}
    flops = median["flops"] / median["step_seconds"]
    return {
        **out,
        "parameters": lines[0]["parameters"],
        "steps/s": 1 / median["step_seconds"],
        "audio s/s": median["audio_seconds_per_second"],
        "data wait %": 100 * median["data_wait"],
        "GFLOP/s": flops / 1e9,
        "utilisation %": 100 * flops / limit,
    }


def limit_of(cell: Cell, device: str) -> float:
    """Operations a second of a large product in the precision of the cell."""
    torch.set_num_threads(cell.threads)
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    with tf32(True):
        size = 8192 if device == "cuda" else 1536
        return product_limit(device, kinds.get(cell.precision, torch.float32), size)


if __name__ == "__main__":
    main()
