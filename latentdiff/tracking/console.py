"""What a person in front of the terminal sees."""

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
    """The line that shows every run below `root`, and the tunnel for a remote machine."""
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
    """A progress bar with ETA on stderr; silent where stderr is no terminal or under `-q`."""
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
