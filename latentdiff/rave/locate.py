"""Where a RAVE run keeps its config.gin and its checkpoints: our runs and those of `rave train`."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from latentdiff.errors import UserError
from latentdiff.rave.checkpoint import read_checkpoint

log = logging.getLogger(__name__)

CONFIG = "config.gin"
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Weights:
    """A checkpoint with the config of its model."""

    checkpoint: Path
    config: Path | None
    """The run's config.gin; None: there is none near the checkpoint."""
    resume: bool = False
    """Go on where their training stopped: step, phase, optimisers and schedule are theirs."""

    def describe(self, step: int | None) -> str:
        """What a training does with them, in one line. `step`: how long they were trained."""
        if self.resume:
            return f"going on with the training of {self.checkpoint} after step {step:,}"
        trained = "" if step is None else f" (trained for {step:,} steps)"
        return (
            f"starting at step 0 from the weights of {self.checkpoint}{trained}; its step count "
            "and optimiser states are not restored (--continue restores them)"
        )


@dataclass(frozen=True)
class _Place:
    config: Path
    checkpoints: Path
    """A folder (searched to any depth) or one file."""


def find_run(run: Path, ckpt: str | Path | None = None) -> tuple[Path, Path]:
    """config.gin and checkpoint of a run; see `load.load_rave` for `run` and `ckpt`.

    Raises UserError where one is missing, or where `run` holds several runs.
    """
    if not run.exists():
        raise UserError(
            f"no RAVE run at {run}", do_this="check --rave, or `latentdiff train-rave`."
        )
    place = _find(run)
    if place is None:
        raise _no_config(run)
    return place.config, _choose(place.checkpoints, ckpt)


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder is laid out as a run of RAVE, ours or upstream's."""
    places = ("", f"{_CHECKPOINTS}/", f"version_*/{_CHECKPOINTS}/")
    return any(any(folder.glob(f"{place}*.ckpt")) for place in places)


def _no_config(run: Path) -> UserError:
    if run.suffix == ".ckpt" or has_checkpoints(run):
        return UserError(
            f"{run} has weights but no {CONFIG}",
            why="only that describes the architecture; `rave train` writes it beside version_0",
            do_this=f"copy the run's {CONFIG} there, or name an exported model.ts.",
        )
    return UserError(
        f"{run} is not a RAVE run",
        why=f"it has no {CONFIG}, which describes the architecture",
        do_this=f"name the folder that holds {CONFIG}, or an exported model.ts.",
    )


def find_weights(path: Path, *, resume: bool = False) -> Weights:
    """The checkpoint to start from: `path` itself, or the newest one in the folder `path`.

    `resume`: see `Weights`. Raises UserError where there is none, or where the folder holds several
    runs.
    """
    if not path.exists():
        raise UserError(f"no checkpoint at {path}", do_this="check --ckpt.")
    place = _find(path)
    if place is None:
        return Weights(_choose(path, None), None, resume)
    return Weights(_choose(place.checkpoints, None), place.config, resume)


def _find(run: Path) -> _Place | None:
    """The config.gin of `run`, and the folder of its checkpoints."""
    here = run if run.is_dir() else run.parent
    # For a checkpoint, its folder or a version's folder, the config lies up to two levels higher:
    # RUN/config.gin, RUN/version_0/checkpoints/best.ckpt. Further up begin other people's files.
    for folder in [here, *here.parents][:3]:
        if (folder / CONFIG).is_file():
            return _Place(folder / CONFIG, run)
        if folder.name != _CHECKPOINTS and not folder.name.startswith("version_"):
            break
    below = sorted(here.glob(f"*/{CONFIG}")) if run.is_dir() else []
    # A run directory of ours may hold more than its `rave` stage.
    below = [path for path in below if path.parent.name == "rave"] or below
    if len(below) > 1:
        raise UserError(
            f"{run} holds {len(below)} RAVE runs",
            why=", ".join(path.parent.name for path in below),
            do_this="name one of them.",
        )
    return _Place(below[0], below[0].parent) if below else None


def _choose(place: Path, ckpt: str | Path | None) -> Path:
    if place.is_file():
        return place
    if ckpt is not None and ckpt not in ("last", "best"):
        return _named(place, Path(ckpt))
    best = ckpt == "best"
    ours = place / _CHECKPOINTS / ("best.ckpt" if best else "last.ckpt")
    if ours.is_file():
        return ours
    candidates = sorted(place.rglob("*.ckpt"))
    if best:
        candidates = [path for path in candidates if path.name.startswith("best")]
    if not candidates:
        raise UserError(
            f"there is no {'best ' * best}checkpoint in {place}",
            why="training has not reached its first one",
            do_this="train on (`latentdiff train-rave`)"
            + (", or use --ckpt last." if best else "."),
        )
    return _most_trained(candidates)


def _named(place: Path, path: Path) -> Path:
    for candidate in (path, place / path, place / _CHECKPOINTS / path):
        if candidate.is_file():
            return candidate
    there = sorted(str(file.relative_to(place)) for file in place.rglob("*.ckpt"))
    raise UserError(
        f"no checkpoint at {path}", do_this=f"use last, best, or one of: {', '.join(there)}."
    )


def _most_trained(paths: list[Path]) -> Path:
    """The candidate with the most training steps; unreadable ones are logged and skipped."""
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
    # Not by file time: copying a run changes it. Among equal steps the newer version counts, and
    # within a version the one not called best, which was written later.
    return max(
        steps, key=lambda path: (steps[path], _version(path), not path.name.startswith("best"))
    )


def _version(path: Path) -> int:
    """N of the folder `version_N` that Lightning makes at each start of a run; -1: none."""
    names = [re.fullmatch(r"version_(\d+)", folder.name) for folder in path.parents]
    return next((int(match[1]) for match in names if match), -1)
