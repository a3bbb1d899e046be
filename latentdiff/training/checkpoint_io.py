"""What a training saves, in which order, and how it continues from there.

Every write is complete or does not happen (`runs.atomic`), and the state is written last. So a
process may be killed at any moment: the next one continues from the newest state and, as all its
randomness comes from (seed, step), writes any weights newer than that state again, bit for bit. In
the opposite order a finished run could be left without its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from latentdiff.config import Values
from latentdiff.training import checkpoint
from latentdiff.training.best_tracker import BestTracker
from latentdiff.training.denoiser_learner import DenoiserLearner
from latentdiff.training.ema import Ema
from latentdiff.training.meter import TrainingMetrics
from latentdiff.training.settings import TrainingConfig


@dataclass
class Progress:
    """How far a training has come."""

    step: int = 0
    """Optimiser steps done."""
    seen: int = 0
    """Windows trained on, over all processes."""
    elapsed: float = 0.0
    """Seconds, over all attempts."""
    metrics: TrainingMetrics | None = None
    """The newest line of metrics; None before the first."""
    judged: bool = False
    """Whether the skill after the first few hundred steps has been checked."""


class CheckpointIO:
    """Saves and restores all that a training consists of: learner, best tracker and progress.

    `constants`: named groups of tensors, such as the whitening, that go into every `.safetensors`
    file beside the averaged weights. `header`: what describes the model there.
    """

    def __init__(
        self,
        directory: Path,
        settings: TrainingConfig,
        learner: DenoiserLearner,
        best_tracker: BestTracker,
        constants: Mapping[str, Mapping[str, Tensor]],
        header: Values,
    ) -> None:
        self.directory = directory
        self._settings = settings
        self._learner, self._best_tracker = learner, best_tracker
        self._constants, self._header = dict(constants), dict(header)

    @property
    def average(self) -> Ema:
        """The averaged weights that did best at the last validation."""
        last = self._best_tracker.last
        return self._learner.chosen(None if last is None else last.halflife)

    def save_best(self, step: int) -> None:
        """Write the weights that sampling uses."""
        self._save_weights(checkpoint.best(self.directory), step, self.average)

    def save(self, progress: Progress, keep: bool) -> None:
        """Write weights and state; `keep`: also a copy that stays."""
        self._save_weights(checkpoint.last(self.directory), progress.step, self.average)
        if len(self._learner.averages) > 1:
            for average in self._learner.averages:
                assert average.halflife is not None  # several averages have given half-lives
                path = checkpoint.average(self.directory, average.halflife)
                self._save_weights(path, progress.step, average)
        # Last, see above.
        checkpoint.save_state(checkpoint.state(self.directory), self._state(progress))
        if keep:
            checkpoint.keep(self.directory, progress.step, self._settings.keep_last)

    def restore(self) -> Progress | None:
        """Put learner and best tracker back to the newest state; None if there is no state."""
        state = checkpoint.load_newest_state(self.directory)
        if state is None:
            return None
        self._learner.load_state_dict(state)
        self._best_tracker.load_state_dict(state["watch"])
        metrics = TrainingMetrics.from_metrics(state["training"]) if state["training"] else None
        return Progress(state["step"], state["seen"], state["elapsed"], metrics, state["judged"])

    def _state(self, progress: Progress) -> checkpoint.State:
        # The keys are those of STATE_FORMAT; states on disk have them.
        return {
            "step": progress.step,
            "seen": progress.seen,
            "elapsed": progress.elapsed,
            **self._learner.state_dict(),
            "watch": self._best_tracker.state_dict(),
            "training": progress.metrics.metrics() if progress.metrics else {},
            "judged": progress.judged,
        }

    def _save_weights(self, path: Path, step: int, average: Ema) -> None:
        last = self._best_tracker.last
        header = {
            **self._header,
            "step": step,
            "ema_halflife": average.halflife,
            "validation": None if last is None else last.metrics(),
        }
        network = average.module.state_dict()
        checkpoint.save_weights(path, checkpoint.pack(network=network, **self._constants), header)
