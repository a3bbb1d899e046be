"""Weights & Biases, optional (`pip install latentdiff[wandb]`).

Shapes: H height and W width of a picture, N audio samples.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.tracking.backend import Backend, Setting

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

ID_FILE = "wandb-id.txt"
"""Holds the W&B id of a run, so that continuing it continues the same run there."""


def require_wandb() -> None:
    """Raises UserError if the package is not installed."""
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise UserError(
            "training.wandb is set, but Weights & Biases is not installed",
            do_this="pip install 'latentdiff[wandb]', or set training.wandb=null.",
        ) from error


class Wandb(Backend):
    """One W&B run per folder, in its subfolder `wandb/`; `resume_step` None begins a new run.

    W&B cannot remove steps: those between the checkpoint and a kill keep their first values, and
    its client drops the second ones (with WANDB_MODE=offline both are kept). Raises UserError if
    the package is missing or W&B refuses.
    """

    def __init__(self, directory: Path, project: str, resume_step: int | None) -> None:
        require_wandb()
        import wandb

        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=project,
                id=_identity(directory, resume_step),
                name="/".join(directory.resolve().parts[-2:]),
                dir=str(directory),
                resume="allow",
                # Never log into a run that the calling program has open.
                reinit="create_new",
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise UserError(
                "Weights & Biases could not start",
                why=str(error),
                do_this="`wandb login`, or WANDB_MODE=offline, or training.wandb=null.",
            ) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def audio(self, step: int, name: str, samples: np.ndarray, sample_rate: int) -> None:
        self._run.log({name: self._wandb.Audio(samples, sample_rate=sample_rate)}, step=step)

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        self._run.log({name: self._wandb.Histogram(values)}, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def hparams(self, settings: Mapping[str, Setting], results: Mapping[str, float]) -> None:
        self._run.config.update(dict(settings), allow_val_change=True)
        self._run.summary.update(dict(results))

    def close(self) -> None:
        self._run.finish()


def _identity(directory: Path, resume_step: int | None) -> str:
    path = directory / ID_FILE
    if resume_step is None or not path.exists():
        runs.write_text(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8").strip()
