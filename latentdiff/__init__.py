"""Turn a folder of recordings into a music generator: latent diffusion on RAVE.

    import latentdiff

    model = latentdiff.load("runs/techno")
    clips = model.sample(seconds=10, n=4, seed=3)
    clips.save("out")

Importing this package imports no torch; `load` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentdiff.api import Generator

__version__ = "0.2.0.dev0"


def load(
    run: str | Path,
    *,
    rave: str | Path | None = None,
    ckpt: str | None = None,
    device: str = "auto",
) -> Generator:
    """The generator that a run directory, or a diffusion checkpoint, holds.

    `rave`, `ckpt`: its codec, in case the run's was moved. `device`: `auto`, `cpu`, `cuda` or
    `mps`. Raises `latentdiff.errors.UserError` if there is no trained model.

    >>> model = load(run)
    >>> model.sample(seconds=0.5, n=2, seed=3).shape
    (2, 1, 4032)
    """
    from latentdiff import api

    return api.load(run, rave=rave, ckpt=ckpt, device=device)
