"""Metrics, TensorBoard and progress bars: what a run shows while it works."""

from __future__ import annotations

import json
import logging
import shlex
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from latentdiff import runs

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

log = logging.getLogger(__name__)

T = TypeVar("T")

METRICS_FILE = "metrics.jsonl"


class Tracker:
    """Writes `metrics.jsonl` (one object a line) and TensorBoard events beside it.

    `resume_step`: metrics after that step are forgotten first, so that a run killed between a
    checkpoint and the next metrics line does not tell one step twice.
    """

    def __init__(self, directory: Path, resume_step: int | None = None) -> None:
        self._path = directory / METRICS_FILE
        if self._path.exists():
            self._forget_after(-1 if resume_step is None else resume_step)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self._board = SummaryWriter(str(directory), purge_step=purge)

    def scalars(self, step: int, values: dict[str, float], prefix: str = "") -> None:
        """One line of metrics: `{"step": step, "<prefix>name": value, ...}`."""
        row = {prefix + name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, step)

    def audio(self, step: int, name: str, samples: np.ndarray, sample_rate: int) -> None:
        """Sound [N] or [channels, N] in -1..1, at `sample_rate` Hz (TensorBoard plays mono)."""
        mono = samples.mean(0) if samples.ndim == 2 else samples
        self._board.add_audio(name, mono[None], step, sample_rate=sample_rate)

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget_after(self, step: int) -> None:
        kept = [row for row in read_metrics(self._path.parent) if row.get("step", 0) <= step]
        runs.write_jsonl(self._path, kept)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The metrics of a stage, without a last line that a kill cut in two."""
    rows = []
    path = directory / METRICS_FILE
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


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
