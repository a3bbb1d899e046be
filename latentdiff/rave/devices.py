"""The device that RAVE is trained on, and how it computes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from latentdiff.errors import UserError


@contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Torch on one thread, where `wanted`: several devices are launched by a fork, and OpenMP's
    thread pool, once it exists, hangs in the forked processes."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def accelerator(device: str) -> str:
    """The accelerator, with `auto` resolved; UserError where this machine does not have it."""
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if here[name])
    if not here[device]:
        raise UserError(
            f"--device {device}: torch finds no such device on this machine",
            why=f"torch is {torch.__version__}",
            do_this="use --device cpu, or a device that `latentdiff doctor` lists.",
        )
    return device


@contextmanager
def fast_arithmetic(device: str) -> Iterator[None]:
    """TF32 products and tuned convolutions on CUDA, as `rave train` has them; restored after."""
    if device != "cuda":
        yield
        return
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
