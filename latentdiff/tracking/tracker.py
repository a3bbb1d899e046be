"""Receives the metrics of a training and passes them on to all backends.

Shapes: H height and W width of a picture, N audio samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff.tracking.backend import Backend, Setting
from latentdiff.tracking.metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Tracker:
    """Writes `metrics.jsonl`, TensorBoard events beside it and, where asked, to W&B.

    `resume_step`: everything after that step is removed first (None: everything), so that a run
    that was killed after a checkpoint does not contain a step twice. `wandb`: the W&B project;
    None: not used. Raises UserError if W&B is asked for and not installed.
    """

    def __init__(
        self, directory: Path, resume_step: int | None = None, *, wandb: str | None = None
    ) -> None:
        from latentdiff.tracking.board import Board
        from latentdiff.tracking.wandb import Wandb

        # First the one that can fail, before others have removed anything.
        remote = [] if wandb is None else [Wandb(directory, wandb, resume_step)]
        self._backends: list[Backend] = [
            Metrics(directory, resume_step),
            Board(directory, resume_step),
            *remote,
        ]

    def scalars(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """One line of metrics: `{"step": step, "<prefix>name": value, ...}`."""
        row = {prefix + name: float(value) for name, value in values.items()}
        for backend in self._backends:
            backend.scalars(step, row)

    def audio(self, step: int, name: str, samples: np.ndarray, sample_rate: int) -> None:
        """Audio [N] or [channels, N] in -1..1, at `sample_rate` Hz; mixed down to mono."""
        mono = samples.mean(0) if samples.ndim == 2 else samples
        for backend in self._backends:
            backend.audio(step, name, mono, sample_rate)

    def histogram(self, step: int, name: str, values: np.ndarray | Tensor) -> None:
        """Finite values of any shape."""
        array = _array(values)
        for backend in self._backends:
            backend.histogram(step, name, array)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """RGB image [H, W, 3], uint8."""
        for backend in self._backends:
            backend.picture(step, name, image)

    def hparams(self, settings: Mapping[str, object], results: Mapping[str, float]) -> None:
        """Nested settings and final results; replaces those given before."""
        flat = dict(_flat(settings))
        for backend in self._backends:
            backend.hparams(flat, results)

    def close(self) -> None:
        """Flush and close all backends."""
        for backend in self._backends:
            backend.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    if hasattr(values, "detach"):
        return values.detach().float().cpu().numpy()
    return values


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """`{"training": {"steps": 5}}` -> ("training.steps", 5); values but scalars become text."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, (bool, int, float, str)) else str(value)
