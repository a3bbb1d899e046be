"""Checkpoints: weights that a stranger may open, and the state that training continues from.

`checkpoints/last.safetensors`, `best.safetensors`: the averaged weights, the whitening, and a JSON
header with all that is needed to build the model again: sampling needs one such file and nothing
else. `checkpoints/last.state.pt`: everything training continues from, raw and averaged weights
included. It alone decides where a run continues; the weights are written before it, so a kill
between the two leaves weights that are ahead of the state, and these are written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.errors import UserError

FOLDER = "checkpoints"
FORMAT = 1
"""Of the header; raised when an older reader would misread it."""
_KEY = "latentdiff"


@dataclass(frozen=True)
class Weights:
    """One `.safetensors` checkpoint in memory."""

    path: Path
    header: dict[str, Any]
    """JSON: the sections the model was built from, codec facts, labels, step, validation."""
    tensors: dict[str, Tensor]
    """By dotted name; see `group`."""

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors `<name>.*` without their prefix, such as `network` or `whitening`."""
        prefix = name + "."
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


def pack(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Groups of tensors as one mapping with dotted names; the inverse of `Weights.group`."""
    return {
        f"{group}.{key}": value.detach().cpu().contiguous()
        for group, tensors in groups.items()
        for key, value in tensors.items()
    }


def last(directory: Path) -> Path:
    """The newest weights of a diffusion stage."""
    return directory / FOLDER / "last.safetensors"


def best(directory: Path) -> Path:
    """The weights with the lowest validation loss."""
    return directory / FOLDER / "best.safetensors"


def state(directory: Path) -> Path:
    """What training continues from."""
    return directory / FOLDER / "last.state.pt"


def save_weights(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a `.safetensors` checkpoint whole or not at all."""
    from safetensors.torch import save

    runs.make_directory(path.parent)
    metadata = {_KEY: json.dumps({"format": FORMAT, **header}, ensure_ascii=False)}
    with runs.atomic(path) as partial:
        partial.write_bytes(save(dict(tensors), metadata))


def load_weights(path: Path) -> Weights:
    """Read a `.safetensors` checkpoint (onto the CPU).

    Raises UserError naming the file where it is missing, damaged, or not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(
            f"no diffusion checkpoint at {path}",
            do_this="`latentdiff train-diffusion` makes one; --diffusion names another.",
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(metadata[_KEY]) if _KEY in metadata else None
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if header is None:
        raise UserError(
            f"{path} is not a diffusion checkpoint of latentdiff", why="it carries no description"
        )
    if header["format"] > FORMAT:
        raise UserError(
            f"{path} was written by a newer latentdiff", do_this="pip install --upgrade latentdiff"
        )
    return Weights(path, header, tensors)


def save_state(path: Path, values: Mapping[str, Any]) -> None:
    """Write the training state whole or not at all."""
    runs.make_directory(path.parent)
    with runs.atomic(path) as partial:
        torch.save(dict(values), partial)


def load_state(path: Path) -> dict[str, Any] | None:
    """The training state (on the CPU), or None where there is none.

    It is read with `weights_only`: a state from a stranger cannot run code.
    Raises UserError naming the file where it is damaged.
    """
    if not path.exists():
        return None
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    # A cut file raises RuntimeError, EOFError or UnpicklingError, according to where it was cut.
    except Exception as error:
        raise _damaged(path, error) from error
    if not isinstance(values, dict) or "step" not in values:
        raise _damaged(path, "it holds no training state")
    return values


def find(path: Path) -> Path:
    """The weights that a run directory, its diffusion folder, or a file stands for.

    `best` where there was validation, else `last`. Raises UserError where there is none.
    """
    if path.is_file() or path.suffix == ".safetensors":
        return path
    for directory in (path, path / "diffusion"):
        for candidate in (best(directory), last(directory)):
            if candidate.exists():
                return candidate
    raise UserError(
        f"no diffusion checkpoint in {path}",
        do_this="`latentdiff train-diffusion` makes one; --diffusion names another.",
    )


def _damaged(path: Path, error: object) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"the checkpoint {path} is damaged or cut short",
        why=reason[:200],
        do_this="copy it again, or name another checkpoint, or train anew with --overwrite.",
    )
