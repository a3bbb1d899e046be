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
    """The device itself; `auto` is the first available of cuda, mps and cpu.

    Raises UserError for a device that this machine or this build of torch does not have.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(kind for kind, found in available.items() if found)
    if not available[name]:
        raise UserError(
            f"torch {torch.__version__} finds no {name} device on this machine",
            do_this="use --device auto; `latentdiff doctor` shows which devices work.",
        )
    return name


@dataclass(frozen=True)
class Launch:
    """The devices and machines to compute on."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: str | int = 1
    """Devices per machine, one process each; auto = all GPUs, or one process on the CPU."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """Lightning's name of how they work together: auto, ddp, ..."""


def make_fabric(launch: Launch, precision: Precision = "32") -> Fabric:
    """A Fabric for these devices and this precision; it starts no process yet.

    Under torchrun and SLURM it joins the processes that they started; their number then replaces
    `devices` and `num_nodes`. Raises UserError if the device does not support what is asked for.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    # Only the first process logs; the others, however started, log errors only.
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        logging.getLogger("latentdiff").setLevel(logging.ERROR)
    kind = pick_device(launch.device)
    if precision == "16-mixed" and kind == "cpu":
        raise UserError(
            "16-mixed precision needs a GPU", do_this="set training.precision to bf16-mixed or 32."
        )
    devices, nodes = _external_launch() or (launch.devices, launch.num_nodes)
    if devices == "auto" and kind == "cpu":
        devices = 1
    if kind == "cuda" and isinstance(devices, int) and devices > torch.cuda.device_count():
        raise UserError(
            f"{devices} GPUs were requested, but this machine has {torch.cuda.device_count()}",
            do_this="use --devices auto, or a smaller number.",
        )
    return Fabric(
        accelerator=kind,
        devices=devices,
        num_nodes=nodes,
        strategy=launch.strategy,
        precision=precision,
    )


def _external_launch() -> tuple[int, int] | None:
    """Processes per node, and nodes, if torchrun or `srun` started this process; else None."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if SLURMEnvironment.detect() and "SLURM_STEP_ID" in os.environ:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None
