"""Which checkpoint of a RAVE run, and how to read it: our runs and those of `rave train`."""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.rave.gin_check import check_gin_imports

if TYPE_CHECKING:
    from rave import RAVE

log = logging.getLogger(__name__)

CONFIG = "config.gin"
CODEC_PARTS = ("encoder.", "decoder.", "pqmf.")
"""Weights by which sound becomes latents and back; the rest of a checkpoint only trains them."""


@dataclass(frozen=True)
class Origin:
    """Where a model came from."""

    path: Path
    step: int | None
    """Training steps; None where the file does not tell."""
    phase: int | None
    """1: distances only. 2: with the discriminator, encoder frozen. None: not told."""

    def describe(self) -> str:
        step = "unknown step" if self.step is None else f"step {self.step:,}"
        return f"{self.path}, {step}" + (f", phase {self.phase}" if self.phase else "")


@dataclass(frozen=True)
class _Place:
    config: Path
    """config.gin."""
    checkpoints: Path
    """Folder (searched to any depth) or one file."""


def load_rave(run: Path, ckpt: str | Path | None = None) -> tuple[RAVE, Origin]:
    """A `rave.RAVE` in evaluation mode, on the CPU, and where its weights came from.

    `run`: our `rave` stage, a run of `rave train` (its folder, the folder above it, or one of its
    checkpoints). `ckpt`: `last` (also None), `best`, or the path of a checkpoint. Where a run of
    `rave train` holds several, `last` is the one with the most steps: file times change when a run
    is copied.

    The weights are read without running any code of theirs, and config.gin is checked before gin
    sees it. Raises UserError where something is missing, damaged, or does not fit together.
    """
    place = _find(run)
    path = _choose(place, ckpt)
    checkpoint = read_checkpoint(path)
    weights = checkpoint["state_dict"]
    model = _build(place.config, weights)
    _fill(model, weights, path)
    return model.eval(), _origin(path, checkpoint)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A PyTorch Lightning checkpoint with `state_dict`, on the CPU; nothing in it is executed.

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
            + str(error).strip().splitlines()[0],
            do_this="use a checkpoint as `rave train` or `latentdiff train-rave` writes it.",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read",
            why="it is damaged or cut short: " + str(error).strip().splitlines()[0],
            do_this="copy it again, or name another one with --ckpt (last, best or a path).",
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(
            f"{path} is not a RAVE checkpoint",
            why="it has no `state_dict`",
            do_this="check --ckpt.",
        )
    return checkpoint


def codec_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that decide what a latent means."""
    return {name: value for name, value in weights.items() if name.startswith(CODEC_PARTS)}


def _find(run: Path) -> _Place:
    """The config.gin that belongs to `run`, and where its checkpoints are."""
    if not run.exists():
        raise UserError(
            f"no RAVE run at {run}", do_this="check --rave, or `latentdiff train-rave`."
        )
    here = run if run.is_dir() else run.parent
    # A checkpoint, its folder or a version's folder: the config lies further up.
    inside = [here, *here.parents][:3]
    for folder in inside:
        if (folder / CONFIG).is_file():
            return _Place(folder / CONFIG, run)
        if folder.name != "checkpoints" and not folder.name.startswith("version_"):
            break
    below = sorted(here.glob(f"*/{CONFIG}")) if run.is_dir() else []
    below = [path for path in below if path.parent.name == "rave"] or below
    if len(below) == 1:
        return _Place(below[0], below[0].parent)
    if below:
        raise UserError(
            f"{run} holds {len(below)} RAVE runs",
            why=", ".join(path.parent.name for path in below),
            do_this="name one of them with --rave.",
        )
    raise UserError(
        f"{run} is no RAVE run",
        why=f"there is no {CONFIG} in it, which says how the model is built",
        do_this=f"give the folder that holds {CONFIG}, or an exported model.ts.",
    )


def _choose(place: _Place, ckpt: str | Path | None) -> Path:
    if place.checkpoints.is_file():
        return place.checkpoints
    if ckpt is not None and ckpt not in ("last", "best"):
        return _named(place, Path(ckpt))
    best = ckpt == "best"
    ours = place.checkpoints / "checkpoints" / ("best.ckpt" if best else "last.ckpt")
    if ours.is_file():
        return ours
    found = sorted(place.checkpoints.rglob("*.ckpt"))
    if best:
        found = [path for path in found if path.name.startswith("best")]
    if not found:
        what = "best checkpoint" if best else "checkpoint"
        raise UserError(
            f"there is no {what} in {place.checkpoints}",
            why="training has not come to its first one",
            do_this="train on (`latentdiff train-rave`)"
            + (", or use --ckpt last." if best else "."),
        )
    return _most_trained(found)


def _named(place: _Place, path: Path) -> Path:
    for candidate in (path, place.checkpoints / path, place.checkpoints / "checkpoints" / path):
        if candidate.is_file():
            return candidate
    there = [str(p.relative_to(place.checkpoints)) for p in place.checkpoints.rglob("*.ckpt")]
    raise UserError(
        f"no checkpoint at {path}",
        do_this=f"use last, best, or one of: {', '.join(sorted(there))}.",
    )


def _most_trained(paths: list[Path]) -> Path:
    """The one with the most steps. One that cannot be read is named and passed over."""
    steps: dict[Path, int] = {}
    failure = None
    for path in paths:
        try:
            steps[path] = int(read_checkpoint(path).get("global_step", -1))
        except UserError as error:
            failure = error
            log.warning("%s", error)
    if not steps:
        assert failure is not None
        raise failure
    # Among equals the one that is not called best: it is the later of the two.
    return max(steps, key=lambda path: (steps[path], not path.name.startswith("best")))


def _origin(path: Path, checkpoint: dict[str, Any]) -> Origin:
    step = checkpoint.get("global_step")
    flags = [v for k, v in checkpoint["state_dict"].items() if k.endswith("coder.warmed_up")]
    phase = None if not flags else 2 if any(bool(flag) for flag in flags) else 1
    return Origin(path, None if step is None else int(step), phase)


def _build(config: Path, weights: dict[str, Tensor]) -> RAVE:
    """The model that config.gin describes, with as many channels as the weights are made for."""
    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {config}", why=str(error)) from error
    check_gin_imports(text, str(config))
    with compat.isolated_gin(), compat.quiet():
        import gin
        import rave

        try:
            gin.parse_config(text)
            model = rave.RAVE()
            channels = _channels(model, weights)
            # `rave train` does not write the number of channels into config.gin.
            return model if channels == model.n_channels else rave.RAVE(n_channels=channels)
        except (ValueError, TypeError, AttributeError, NameError, RuntimeError, KeyError) as error:
            raise UserError(
                f"the model of {config} cannot be built",
                why=str(error).strip().splitlines()[0],
                do_this="it must be the config.gin of acids-rave 2.3 that belongs to the weights.",
            ) from error


def _channels(model: RAVE, weights: dict[str, Tensor]) -> int:
    """Audio channels of the weights, told by the width of the encoder's first layer."""
    for name, value in model.encoder.state_dict(prefix="encoder.").items():
        if name.endswith((".weight", ".weight_v")) and value.ndim == 3 and name in weights:
            there, here = weights[name].shape[1], value.shape[1]
            return model.n_channels * there // here if there % here == 0 else model.n_channels
    return int(model.n_channels)


def _fill(model: RAVE, weights: dict[str, Tensor], path: Path) -> None:
    """Load what the codec needs; UserError unless all of it is there and fits."""
    wanted, given = codec_weights(model.state_dict()), codec_weights(weights)
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not part of the model" for name in given if name not in wanted]
    problems += [
        f"{name} is {tuple(given[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    if problems:
        raise UserError(
            f"{path} does not fit its {CONFIG}",
            why=f"{len(problems)} differences; the first: {problems[0]}",
            do_this=f"put the {CONFIG} that the checkpoint was trained with beside it.",
        )
    model.load_state_dict(given, strict=False)
