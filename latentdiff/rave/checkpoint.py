"""Checkpoints of a RAVE training: written whole or not at all, read without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.rave.load import read_checkpoint

OURS = "latentdiff"
"""Key under which a checkpoint says what wrote it, its step, phase and schedule."""


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write atomically. Raises UserError where the disk refuses."""
    runs.make_directory(path.parent)
    with runs.atomic(path) as partial:
        try:
            torch.save(checkpoint, partial)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(str(error)) from error


def read_own(path: Path) -> dict[str, Any]:
    """A checkpoint that `train-rave` wrote, on the CPU.

    Raises UserError where another program wrote it, or it is damaged.
    """
    loaded = read_checkpoint(path)
    missing = {OURS, "optimizer_states", "lr_schedulers", "loops", "global_step"} - set(loaded)
    if missing:
        raise UserError(
            f"{path} cannot be continued",
            why=f"`latentdiff train-rave` did not write it: {', '.join(sorted(missing))} missing",
            do_this="`--ckpt FILE` starts a new run from its weights.",
        )
    return loaded


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Put the weights of a checkpoint into a model of the same shape.

    Raises UserError naming the first weight that does not fit.
    """
    weights = read_checkpoint(path)["state_dict"]
    own = model.state_dict()
    for name in own:
        if name not in weights:
            raise _other_shape(path, f"{name} is missing")
        if weights[name].shape != own[name].shape:
            was, is_now = tuple(weights[name].shape), tuple(own[name].shape)
            raise _other_shape(path, f"{name} is {was}, here {is_now}")
    model.load_state_dict({name: weights[name] for name in own})


def _other_shape(path: Path, why: str) -> UserError:
    return UserError(
        f"the weights in {path} do not fit this RAVE",
        why=why,
        do_this="give the settings (configs, capacity, latent_size, ...) that it was made with.",
    )
