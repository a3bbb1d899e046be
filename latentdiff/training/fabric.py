"""Devices and precision: Lightning Fabric, from our two settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latentdiff.errors import UserError
from latentdiff.training.settings import TrainingConfig

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


def make_fabric(device: str, settings: TrainingConfig) -> Fabric:
    """A Fabric on `device` with the precision and the number of devices of the settings.

    Raises UserError where the device cannot do that.
    """
    from lightning.fabric import Fabric

    kind = pick_device(device)
    if settings.precision == "16-mixed" and kind == "cpu":
        raise UserError(
            "16-mixed precision needs a GPU", do_this="use training.precision=bf16-mixed, or 32."
        )
    return Fabric(accelerator=kind, devices=1, precision=settings.precision)
