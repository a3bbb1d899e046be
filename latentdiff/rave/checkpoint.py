"""Checkpoints of RAVE: written whole or not at all, read without running any code in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.rave.result import RaveTrainingResult

RESULT_KEY = "latentdiff"
"""Key of a checkpoint under which `train-rave` keeps its `RaveTrainingResult`."""

_LIGHTNINGS = {"optimizer_states", "lr_schedulers", "loops", "global_step"}
"""Keys under which Lightning keeps what it needs to go on."""


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write atomically. Raises UserError where the disk refuses."""
    runs.make_directory(path.parent)
    with runs.atomic(path) as partial:
        try:
            torch.save(checkpoint, partial)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(str(error)) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A PyTorch Lightning checkpoint with `state_dict`, on the CPU; no code in it is executed.

    Raises UserError where it is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}", do_this="check --rave and --ckpt.") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused",
            why="it holds Python objects, or is damaged; reading objects could run code: "
            + _first_line(error),
            do_this="use a checkpoint as `rave train` or `latentdiff train-rave` writes it.",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read",
            why="it is damaged or cut short: " + _first_line(error),
            do_this="copy it again, or name another one with --ckpt (last, best or a path).",
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(
            f"{path} is not a RAVE checkpoint",
            why="it has no `state_dict`",
            do_this="check --ckpt.",
        )
    return checkpoint


def read_result(path: Path) -> RaveTrainingResult:
    """What a checkpoint of `train-rave` records about its training.

    Raises UserError where another program wrote it, or it is damaged.
    """
    loaded = read_checkpoint(path)
    missing = sorted({RESULT_KEY, *_LIGHTNINGS} - set(loaded))
    if missing:
        raise _cannot_resume(path, f"{', '.join(missing)} missing")
    try:
        return RaveTrainingResult.from_dict(loaded[RESULT_KEY])
    except (KeyError, TypeError) as error:
        raise _cannot_resume(path, f"its record is incomplete ({error})") from error


def step_to_resume(path: Path) -> int:
    """The steps done by the training that wrote a checkpoint, `rave train` or our own.

    Raises UserError where the checkpoint does not hold what it takes to go on.
    """
    loaded = read_checkpoint(path)
    missing = sorted(_LIGHTNINGS - set(loaded))
    if missing:
        raise UserError(
            f"the training of {path} cannot be continued",
            why=f"the checkpoint holds weights, but no {', '.join(missing)}",
            do_this="leave out --continue: a new training then starts from its weights.",
        )
    return int(loaded["global_step"])


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Put the weights of a checkpoint into a model of the same shape.

    Raises UserError naming the first weight that does not fit.
    """
    weights: dict[str, Tensor] = read_checkpoint(path)["state_dict"]
    own = model.state_dict()
    for name in own:
        if name not in weights:
            raise _other_shape(path, f"{name} is missing")
        if weights[name].shape != own[name].shape:
            theirs, ours = tuple(weights[name].shape), tuple(own[name].shape)
            raise _other_shape(path, f"{name} is {theirs} there and {ours} here")
    model.load_state_dict({name: weights[name] for name in own})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cannot_resume(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} cannot be continued",
        why=f"`latentdiff train-rave` did not write it: {why}",
        do_this="start a new run from its weights with `--ckpt FILE`.",
    )


def _other_shape(path: Path, why: str) -> UserError:
    return UserError(
        f"the weights in {path} do not fit this RAVE",
        why=why,
        do_this="use the settings it was trained with (rave.configs, rave.capacity, ...). Settings "
        "left null are taken from the config.gin of its run, where there is one.",
    )
