"""Checkpoints: weights that a stranger may open, and the state that training continues from.

`checkpoints/last.safetensors`, `best.safetensors`: the averaged weights, the whitening, and a JSON
header with all that is needed to build the model again: sampling needs one such file and nothing
else. Where several averages are kept, each has a file of its own beside `last`, such as
`last.ema-3200.safetensors`. `checkpoints/last.state.pt`: everything training continues from, raw
and averaged weights included. It alone decides where a run continues; the weights are written
before it, so a kill between the two leaves weights that are ahead of the state, and these are
written again. `previous.state.pt` is the one before, for the day that `last` cannot be read;
`step-00001200.*` are those that were asked to stay.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.errors import UserError

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
PREVIOUS = "previous.state.pt"
FORMAT = 1
"""Of the header; raised when an older reader would misread it."""
STATE_FORMAT = 3
"""Of the training state: one is continued only by the version that wrote it."""
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
    """The newest weights whose validation loss had not risen."""
    return directory / FOLDER / "best.safetensors"


def state(directory: Path) -> Path:
    """What training continues from."""
    return directory / FOLDER / "last.state.pt"


def average(directory: Path, halflife: float) -> Path:
    """The newest weights of one average where several are kept; half-life in windows."""
    return directory / FOLDER / f"last.ema-{halflife:.0f}.safetensors"


def kept(directory: Path, step: int) -> tuple[Path, Path]:
    """Weights and state that stay beside `last`."""
    stem = directory / FOLDER / f"step-{step:08d}"
    return stem.with_suffix(".safetensors"), stem.with_suffix(".state.pt")


def keep(directory: Path, step: int, most: int | None) -> None:
    """Let `last`, which is of `step`, stay; of those that stay, only the `most` newest."""
    pair = kept(directory, step)
    for source, target in zip((last(directory), state(directory)), pair, strict=True):
        with runs.atomic(target) as partial:
            shutil.copyfile(source, partial)
    if most is not None:
        for path in sorted((directory / FOLDER).glob("step-*.safetensors"))[:-most]:
            path.with_suffix(".state.pt").unlink(missing_ok=True)
            path.unlink()


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
    """Write the training state whole or not at all; the one before stays as `previous`."""
    runs.make_directory(path.parent)
    with runs.atomic(path) as partial:
        with open(partial, "wb") as handle:
            _write(values, handle)
            os.fsync(handle.fileno())
        # Should a kill fall between this and the new one's taking its name, this is the newest.
        if path.exists():
            path.replace(path.with_name(PREVIOUS))


def _write(values: Mapping[str, Any], handle: BinaryIO) -> None:
    try:
        torch.save({"format": STATE_FORMAT, **values}, handle)
    # torch's writer tells of a full disk in its own way.
    except RuntimeError as error:
        raise OSError(str(error.__context__ or error)) from error


def load_newest_state(directory: Path) -> dict[str, Any] | None:
    """The newest whole training state, or None where there is none at all.

    Damaged ones are named in warnings. Raises UserError where none is whole.
    """
    folder = directory / FOLDER
    steps = sorted(folder.glob("step-*.state.pt"), reverse=True)
    damaged: UserError | None = None
    for path in (state(directory), folder / PREVIOUS, *steps):
        try:
            values = load_state(path)
        except UserError as error:
            damaged = damaged or error
            log.warning("%s (%s): an older one is used", error.what, error.why)
            continue
        if values is not None:
            return values
    if damaged is not None:
        raise damaged
    return None


def load_state(path: Path) -> dict[str, Any] | None:
    """The training state (on the CPU), or None where there is none.

    It is read with `weights_only`: a state from a stranger cannot run code.
    Raises UserError naming the file where it is damaged.
    """
    if not path.exists():
        return None
    try:
        # torch's reader takes a flipped bit for a number.
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise ValueError(f"{broken} has another checksum")
        values = torch.load(path, map_location="cpu", weights_only=True)
    # A cut file raises RuntimeError, EOFError or UnpicklingError, according to where it was cut.
    except Exception as error:
        raise _damaged(path, error) from error
    if not isinstance(values, dict) or "step" not in values:
        raise _damaged(path, "it holds no training state")
    if values.get("format") != STATE_FORMAT:
        raise UserError(
            f"{path} was written by another version of latentdiff",
            why="its training state has another shape",
            do_this="finish it with that version, or train anew with --overwrite.",
        )
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
