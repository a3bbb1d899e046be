"""Checkpoints of a RAVE training: written whole or not at all, read without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from latentdiff import runs
from latentdiff.errors import UserError

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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of RAVE on the CPU.

    Raises UserError where it is missing, damaged, holds more than plain data, or is no RAVE.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}") from None
    except Exception as error:  # torch, zipfile and pickle raise a dozen kinds for a damaged file
        raise UserError(
            f"the checkpoint {path} cannot be read",
            why=str(error).strip().splitlines()[0],
            do_this="it is damaged, or no RAVE wrote it; take another one, or delete it and train "
            "again with --overwrite.",
        ) from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("state_dict"), dict):
        raise UserError(
            f"{path} is no checkpoint of RAVE", why="it holds no state_dict of a training"
        )
    return loaded


def read_own(path: Path) -> dict[str, Any]:
    """A checkpoint that `train-rave` wrote; UserError where another program did."""
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
