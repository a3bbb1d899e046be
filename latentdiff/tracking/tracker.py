"""The one object that a training tells what it does; backends carry it to where it is seen.

Shapes: H height and W width of a picture, N audio samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentdiff.tracking.backend import Backend, Setting
from latentdiff.tracking.metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Tracker:
    """Writes `metrics.jsonl`, TensorBoard events beside it and, where asked, to W&B.

    `resume_step`: what was told after that step is forgotten first (None: everything), so that a
    run killed between a checkpoint and the next metrics line does not tell one step twice.
    `wandb`: the W&B project; None = none. Raises UserError where W&B is asked for and missing.
    """

    def __init__(
        self, directory: Path, resume_step: int | None = None, *, wandb: str | None = None
    ) -> None:
        from latentdiff.tracking.board import Board
        from latentdiff.tracking.wandb import Wandb

        # First the one that can refuse.
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
        """Sound [N] or [channels, N] in -1..1, at `sample_rate` Hz; heard as mono."""
        mono = samples.mean(0) if samples.ndim == 2 else samples
        for backend in self._backends:
            backend.audio(step, name, mono, sample_rate)

    def histogram(self, step: int, name: str, values: np.ndarray | Tensor) -> None:
        """The distribution of finite values, any shape."""
        array = _array(values)
        for backend in self._backends:
            backend.histogram(step, name, array)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Colours [H, W, 3], uint8."""
        for backend in self._backends:
            backend.picture(step, name, image)

    def hparams(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """Nested settings, and what they have come to at the end; replaces those told before."""
        flat = dict(_flat(settings))
        for backend in self._backends:
            backend.hparams(flat, results)

    def close(self) -> None:
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


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """`{"training": {"steps": 5}}` -> ("training.steps", 5); other than scalars become text."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, (bool, int, float, str)) else str(value)
