"""Files of checkpoints: weights to sample from, and the state that training continues from.

`checkpoints/last.safetensors`, `best.safetensors`: the averaged weights, the whitening, and a JSON
header with everything needed to rebuild the model: sampling needs one such file and nothing else.
If several averages are kept, each also has a file of its own, such as `last.ema-3200.safetensors`.
`checkpoints/last.state.pt`: everything training continues from, raw and averaged weights included;
it alone decides where a run continues. `previous.state.pt` is the state before, in case `last`
cannot be read. `step-00001200.*` are checkpoints kept by `training.keep_every`.

Neither kind of file can run code when it is opened.
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
from latentdiff.config import Values
from latentdiff.errors import UserError

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
PREVIOUS = "previous.state.pt"
FORMAT = 1
"""Version of the header; raised when older versions of latentdiff would misread it."""
DISTILLED_FORMAT = 2
"""That of distilled models, which older versions would sample at levels unknown to them; the newest
that this version reads."""
STATE_FORMAT = 3
"""Version of the training state; a state of any other version is refused."""
_KEY = "latentdiff"

State = Mapping[str, Any]
"""Nested mappings and lists of tensors and plain values, as torch.save writes them."""


@dataclass(frozen=True)
class Weights:
    """A `.safetensors` checkpoint in memory."""

    path: Path
    header: Values
    """JSON: the sections the model was built from, codec facts, labels, step, validation."""
    tensors: dict[str, Tensor]
    """Tensors by dotted name; see `group`."""

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors `<name>.*` without the prefix; groups are `network`, `whitening`, ..."""
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
    """The newest weights whose held-out loss had not risen."""
    return directory / FOLDER / "best.safetensors"


def state(directory: Path) -> Path:
    """The state that training continues from."""
    return directory / FOLDER / "last.state.pt"


def average(directory: Path, halflife: float) -> Path:
    """The newest weights of one of several averages; half-life in windows."""
    return directory / FOLDER / f"last.ema-{halflife:.0f}.safetensors"


def kept(directory: Path, step: int) -> tuple[Path, Path]:
    """Paths of a step's weights and state that are kept beside `last`."""
    stem = directory / FOLDER / f"step-{step:08d}"
    return stem.with_suffix(".safetensors"), stem.with_suffix(".state.pt")


def keep(directory: Path, step: int, most: int | None) -> None:
    """Keep a copy of `last`, which is of `step`; of all copies, the `most` newest (None: all)."""
    pair = kept(directory, step)
    for source, target in zip((last(directory), state(directory)), pair, strict=True):
        with runs.atomic(target) as partial:
            shutil.copyfile(source, partial)
    if most is not None:
        for path in sorted((directory / FOLDER).glob("step-*.safetensors"))[:-most]:
            path.with_suffix(".state.pt").unlink(missing_ok=True)
            path.unlink()


def save_weights(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a `.safetensors` checkpoint atomically; `header` must be JSON values, and may state a
    `format` other than FORMAT."""
    from safetensors.torch import save

    runs.make_directory(path.parent)
    metadata = {_KEY: json.dumps({"format": FORMAT, **header}, ensure_ascii=False)}
    with runs.atomic(path) as partial:
        partial.write_bytes(save(dict(tensors), metadata))


def load_weights(path: Path) -> Weights:
    """Read a `.safetensors` checkpoint (onto the CPU).

    Raises UserError naming the file if it is missing, damaged, or not written by latentdiff.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(
            f"no diffusion checkpoint at {path}",
            do_this="run `latentdiff train-diffusion`, or name another one with --diffusion.",
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
            f"{path} is not a diffusion checkpoint of latentdiff",
            why="it has no header that describes the model",
        )
    if header["format"] > DISTILLED_FORMAT:
        raise UserError(
            f"{path} was written by a newer latentdiff", do_this="pip install --upgrade latentdiff"
        )
    return Weights(path, header, tensors)


def save_state(path: Path, values: State) -> None:
    """Write the training state, completely or not at all; the state before becomes `previous`."""
    runs.make_directory(path.parent)
    with runs.atomic(path) as partial:
        with open(partial, "wb") as handle:
            _write(values, handle)
            # On the disk before it gets its name: a power cut must not leave an empty file there.
            os.fsync(handle.fileno())
        # If the process is killed before the new state gets its name, this one is the newest.
        if path.exists():
            path.replace(path.with_name(PREVIOUS))


def _write(values: State, handle: BinaryIO) -> None:
    try:
        torch.save({"format": STATE_FORMAT, **values}, handle)
    # torch's writer turns a full disk into a RuntimeError of its own.
    except RuntimeError as error:
        raise OSError(str(error.__context__ or error)) from error


def load_newest_state(directory: Path) -> State | None:
    """The newest undamaged training state, or None if there is none at all.

    Damaged ones are named in warnings. Raises UserError if all are damaged.
    """
    folder = directory / FOLDER
    steps = sorted(folder.glob("step-*.state.pt"), reverse=True)
    damaged: UserError | None = None
    for path in (state(directory), folder / PREVIOUS, *steps):
        try:
            values = load_state(path)
        except UserError as error:
            damaged = damaged or error
            log.warning("%s (%s): using an older one", error.what, error.why)
            continue
        if values is not None:
            return values
    if damaged is not None:
        raise damaged
    return None


def load_state(path: Path) -> State | None:
    """The training state (on the CPU), or None if the file does not exist.

    Read with `weights_only`, so that a state from elsewhere cannot run code. Raises UserError
    naming the file if it is damaged or of another version.
    """
    if not path.exists():
        return None
    try:
        # torch's reader checks no checksums: a flipped bit would be just another number.
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise ValueError(f"{broken} has another checksum")
        values = torch.load(path, map_location="cpu", weights_only=True)
    # A cut file raises RuntimeError, EOFError or UnpicklingError, depending on where it was cut.
    except Exception as error:
        raise _damaged(path, error) from error
    if not isinstance(values, dict) or "step" not in values:
        raise _damaged(path, "it holds no training state")
    if values.get("format") != STATE_FORMAT:
        raise UserError(
            f"{path} was written by another version of latentdiff",
            why="its training state has another format",
            do_this="finish it with that version, or train again from the start with --overwrite.",
        )
    return values


def find(path: Path) -> Path:
    """The weights of a run directory or its diffusion folder; a file is returned as it is.

    `best` if there was validation, else `last`. Raises UserError if there are none.
    """
    if path.is_file() or path.suffix == ".safetensors":
        return path
    for directory in (path, path / "diffusion"):
        for candidate in (best(directory), last(directory)):
            if candidate.exists():
                return candidate
    raise UserError(
        f"no diffusion checkpoint in {path}",
        do_this="run `latentdiff train-diffusion`, or name another one with --diffusion.",
    )


def _damaged(path: Path, error: object) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"the checkpoint {path} is damaged or cut short",
        why=reason[:200],
        do_this="copy it again, name another checkpoint, or train again from the start with "
        "--overwrite.",
    )
