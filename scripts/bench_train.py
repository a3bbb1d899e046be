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
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from loops import FRAMES, fit_metrics, make_parts, slow_noise
from measuring import cpu_name, markdown

from latentdiff.errors import UserError
from latentdiff.networks.build import describe


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
    limits = {
        (cell.precision, cell.threads): product_limit(options.device, cell.precision, cell.threads)
        for cell in cells
    }
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
    """The second of two lines of metrics, with the network's operations; {} where it fails."""
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
    parts = make_parts({"network": network, "training": training}, latents)
    known = describe(parts.denoiser.network, frames=cell.window)
    try:
        line = fit_metrics(parts, options.device)[1]
    except UserError as error:
        print(f"{cell}: {error.what}")
        return {}
    # If compiling failed, the trainer has warned and continued uncompiled.
    if cell.compiled and parts.denoiser._compiled_call_impl is None:
        return {}
    return {**line, "flops": known.flops, "parameters": known.parameters}


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
    frames = cell.batch * cell.window / median["step_seconds"]
    return {
        **out,
        "parameters": lines[0]["parameters"],
        "steps/s": 1 / median["step_seconds"],
        "audio s/s": median["audio_seconds_per_second"],
        "data wait %": 100 * median["data_wait"],
        # A backward pass has twice the products of a forward pass.
        "GFLOP/s": 3 * median["flops"] * frames / 1e9,
        "utilisation %": 100 * 3 * median["flops"] * frames / limit,
    }


def product_limit(device: str, precision: str, threads: int) -> float:
    """Operations a second of a product of two large square matrices; the best of ten."""
    torch.set_num_threads(threads)
    size = 8192 if device == "cuda" else 1536
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.float32)
    a = torch.randn(size, size, device=device).to(kind)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    best = 0.0
    for _ in range(10):
        synchronize(device)
        begun = time.perf_counter()
        a @ a
        synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    torch.backends.cuda.matmul.allow_tf32 = before
    return best


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
