"""Devices and precision: Lightning Fabric, from our own few settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from latentdiff.errors import UserError
from latentdiff.training.settings import Precision

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def pick_device(name: str) -> str:
    """`auto` as what is there: cuda, then mps, then cpu.

    Raises UserError for a device that this machine or this torch does not have.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(kind for kind, found in there.items() if found)
    if not there[name]:
        raise UserError(
            f"there is no {name} device for torch {torch.__version__} here",
            do_this="use --device auto; `latentdiff doctor` tells what works on this machine.",
        )
    return name


@dataclass(frozen=True)
class Launch:
    """Where to compute, and on how many devices of how many machines."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: str | int = 1
    """Devices of each machine, one process each; auto = all there are (one for the CPU)."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """How they work together, by Lightning's names: auto, ddp, ..."""


def make_fabric(launch: Launch, precision: Precision = "32") -> Fabric:
    """A Fabric for these devices and this precision; nothing is started yet.

    Under torchrun and SLURM it joins the processes that these have started.
    Raises UserError where the device cannot do that.
    """
    from lightning.fabric import Fabric

    kind = pick_device(launch.device)
    if precision == "16-mixed" and kind == "cpu":
        raise UserError(
            "16-mixed precision needs a GPU", do_this="use training.precision=bf16-mixed, or 32."
        )
    devices = launch.devices
    if devices == "auto" and kind == "cpu":
        devices = 1
    return Fabric(
        accelerator=kind,
        devices=devices,
        num_nodes=launch.num_nodes,
        strategy=launch.strategy,
        precision=precision,
    )
