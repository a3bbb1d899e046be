"""Devices and precision: Lightning Fabric, from our own few settings."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from latentdiff.errors import UserError
from latentdiff.training.settings import Precision

if TYPE_CHECKING:
    from lightning.fabric import Fabric as Fabric


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
    """Devices of each machine, one process each; auto = all GPUs there are, or one CPU process."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """How they work together, by Lightning's names: auto, ddp, ..."""


def make_fabric(launch: Launch, precision: Precision = "32") -> Fabric:
    """A Fabric for these devices and this precision; nothing is started yet.

    Under torchrun and SLURM it joins the processes that these have started, whose number then
    counts instead of `devices` and `num_nodes`. Raises UserError where the device cannot do that.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    # Started by somebody else to follow: the first process speaks for all.
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        logging.getLogger("latentdiff").setLevel(logging.ERROR)
    kind = pick_device(launch.device)
    if precision == "16-mixed" and kind == "cpu":
        raise UserError(
            "16-mixed precision needs a GPU", do_this="use training.precision=bf16-mixed, or 32."
        )
    devices, nodes = _started() or (launch.devices, launch.num_nodes)
    if devices == "auto" and kind == "cpu":
        devices = 1
    if kind == "cuda" and isinstance(devices, int) and devices > torch.cuda.device_count():
        raise UserError(
            f"there are {torch.cuda.device_count()} GPUs here, {devices} were asked for",
            do_this="use --devices auto, or a smaller number.",
        )
    return Fabric(
        accelerator=kind,
        devices=devices,
        num_nodes=nodes,
        strategy=launch.strategy,
        precision=precision,
    )


def _started() -> tuple[int, int] | None:
    """Processes of a node and nodes, where torchrun or `srun` has started them."""
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if SLURMEnvironment.detect() and "SLURM_STEP_ID" in os.environ:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None
