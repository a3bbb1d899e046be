"""What is shown in the terminal."""

from __future__ import annotations

import logging
import shlex
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")


def tensorboard_hint(root: Path) -> str:
    """The command that shows all runs below `root`, and the tunnel to a remote machine."""
    return (
        f"watch: tensorboard --logdir {shlex.quote(str(root))}\n"
        f"       from another machine: ssh -L 6006:localhost:6006 {socket.gethostname()}, "
        "then open localhost:6006"
    )


def progress(
    items: Iterable[T] | None = None,
    *,
    total: float | None = None,
    initial: float = 0,
    unit: str = "it",
    what: str = "",
    unit_scale: bool = False,
) -> tqdm[Any]:
    """A progress bar with ETA on stderr; hidden if stderr is not a terminal, and by `-q`."""
    from tqdm import tqdm

    quiet = logging.getLogger("latentdiff").getEffectiveLevel() > logging.INFO
    return tqdm(
        items,
        total=total,
        initial=initial,
        unit=unit,
        desc=what,
        unit_scale=unit_scale,
        disable=quiet or not sys.stderr.isatty(),
        dynamic_ncols=True,
        smoothing=0.05,
    )
