"""What happens between the steps of a RAVE training: validation, checkpoints, progress, stopping.

The classes here name pytorch-lightning's hooks but know nothing else of it; `train.py` joins them
with its base classes, because pytorch-lightning is imported on use only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentdiff import tracking
from latentdiff.interrupt import StopRequest
from latentdiff.rave.checkpoint import OURS, write_checkpoint
from latentdiff.rave.dataset import FixedCrops
from latentdiff.rave.validation import Validation, validate

log = logging.getLogger(__name__)

LAST = "last.ckpt"
BEST = "best.ckpt"
_CLIPS = 2
"""Pairs of original and reconstruction that TensorBoard gets at each validation."""


@dataclass(frozen=True)
class Plan:
    """When what happens, in steps."""

    start: int
    steps: int
    phase_1_steps: int
    validate_every: int
    checkpoint_every: int
    seed: int

    def phase(self, step: int) -> int:
        """The phase in which the last of `step` steps was done: 1 or 2."""
        return 2 if step > self.phase_1_steps else 1


class Supervisor:
    """Validates, saves, reports and stops, always between two steps.

    `best.ckpt` is the best by validation *within the current phase*: the discriminator of phase 2
    makes sound better and the spectral distance worse, so a best kept from phase 1 would freeze.
    It must be the first callback: RAVE's own ones count the coming step as soon as it begins.
    """

    def __init__(
        self,
        plan: Plan,
        facts: dict[str, Any],
        checkpoints: Path,
        crops: FixedCrops,
        more_crops: FixedCrops,
        open_tracker: Callable[[], tracking.Tracker],
        stop: StopRequest,
    ) -> None:
        self.state: dict[str, Any] = {"best": None, "first": None, "last": None, "rng": None}
        self._plan = plan
        self._facts = facts
        self._checkpoints = checkpoints
        self._crops = crops
        self._more_crops = more_crops
        self._open_tracker = open_tracker
        self._tracker: tracking.Tracker | None = None
        self._stop = stop
        self._bar: Any = None
        self._began = 0.0

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state.update(state)

    def on_save_checkpoint(self, trainer: Any, model: Any, checkpoint: dict[str, Any]) -> None:
        step = trainer.global_step
        checkpoint[OURS] = {
            **self._facts,
            "step": step,
            "phase": self._plan.phase(step),
            **{name: self.state[name] for name in ("first", "last", "best")},
        }

    def on_fit_start(self, trainer: Any, model: Any) -> None:
        if trainer.is_global_zero:
            # Not before: TensorBoard's writing thread would not live through the fork of DDP.
            self._tracker = self._open_tracker()

    def on_train_start(self, trainer: Any, model: Any) -> None:
        self._set_generators(trainer)
        self._began = time.monotonic()
        if trainer.is_global_zero:
            self._bar = tracking.progress(
                total=self._plan.steps, initial=self._plan.start, unit="step", what="train-rave"
            )
        if self._plan.start == 0:
            self._validate(trainer, model)

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._plan.start:
            return
        validation_due = step % self._plan.validate_every == 0
        if self._stop.requested or validation_due or step % self._plan.checkpoint_every == 0:
            self._save(trainer, LAST)
        if self._stop.requested:
            raise KeyboardInterrupt
        if validation_due:
            self._validate(trainer, model)

    def on_train_batch_end(
        self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.set_description(
                f"train-rave phase {self._plan.phase(trainer.global_step)}", refresh=False
            )
            self._bar.update()

    def on_train_end(self, trainer: Any, model: Any) -> None:
        self._save(trainer, LAST)
        self._validate(trainer, model, also=self._more_crops)
        self._save(trainer, LAST)

    def on_before_optimizer_step(
        self, trainer: Any, model: Any, optimizer: Any, optimizer_idx: int
    ) -> None:
        """Average gradients over devices.

        RAVE calls `backward` itself, past the wrapper that would do it, so without this each
        device would train a model of its own.
        """
        if trainer.world_size == 1:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= trainer.world_size

    def teardown(self, trainer: Any, model: Any, stage: str) -> None:
        self.close()

    def close(self) -> None:
        """Close metrics and progress bar; may be called again."""
        if self._bar is not None:
            self._bar.close()
        if self._tracker is not None:
            self._tracker.close()
        self._bar = self._tracker = None

    def track_training(self, metrics: dict[str, float], step: int) -> None:
        """Metrics of a training step, the `step`th; only the first device keeps them."""
        if self._tracker is not None:
            values = {**metrics, "phase": self._plan.phase(step)}
            self._tracker.scalars(step, values, prefix="train/")

    def _set_generators(self, trainer: Any) -> None:
        """Start torch's generators from the seed, or where the checkpoint left them."""
        saved = self.state["rng"]
        if saved is None or trainer.world_size > 1:
            torch.manual_seed(self._plan.seed + self._plan.start + trainer.global_rank)
            return
        torch.set_rng_state(saved["cpu"])
        if saved["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["cuda"])

    def _save(self, trainer: Any, name: str) -> None:
        on_cuda = trainer.strategy.root_device.type == "cuda"
        cuda = torch.cuda.get_rng_state() if on_cuda else None
        self.state["rng"] = {"cpu": torch.get_rng_state(), "cuda": cuda}
        trainer.save_checkpoint(self._checkpoints / name)

    def _validate(self, trainer: Any, model: Any, also: FixedCrops | None = None) -> None:
        """Validate on the first device while the others wait; keep the best."""
        if trainer.is_global_zero:
            self._stop.at_once = True
            if self._stop.requested:
                raise KeyboardInterrupt
            result = validate(model, self._crops, seed=self._plan.seed, also=also)
            self._stop.at_once = False
            self._report(result, trainer.global_step, model)
        trainer.strategy.barrier()
        if trainer.strategy.broadcast(self._is_best(trainer.global_step)):
            self._save(trainer, BEST)

    def _report(self, result: Validation, step: int, model: Any) -> None:
        phase, distance = self._plan.phase(step), result.distance
        best = self.state["best"]
        better = best is None or best["phase"] != phase or distance < best["distance"]
        if step > 0 and better:
            self.state["best"] = {"distance": distance, "phase": phase, "step": step}
        self.state["last"] = {"distance": distance, "fidelity": dict(result.fidelity)}
        if self.state["first"] is None:
            self.state["first"] = distance
        beta = float(model.beta_factor)
        dimensions = {f"fidelity_{level}": float(n) for level, n in result.fidelity.items()}
        assert self._tracker is not None
        self._tracker.scalars(
            step,
            {"spectral_distance": distance, **dimensions, "phase": phase, "beta": beta},
            prefix="validation/",
        )
        _show_sound(self._tracker, result, step, model.sr)
        log.info(
            "step %d/%d  phase %d  reconstruction %.3f (untrained %.3f)  %s",
            *(step, self._plan.steps, phase, distance, self.state["first"], self._pace(step)),
        )

    def _is_best(self, step: int) -> bool:
        best = self.state["best"]
        return best is not None and best["step"] == step

    def _pace(self, step: int) -> str:
        done, seconds = step - self._plan.start, time.monotonic() - self._began
        if not done:
            return "starting"
        rate = done / max(seconds, 1e-9)
        left = int((self._plan.steps - step) / rate)
        return f"{rate:.2f} steps/s, {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"


def _show_sound(tracker: tracking.Tracker, result: Validation, step: int, sample_rate: int) -> None:
    """The first clips into TensorBoard, each original beside its reconstruction."""
    pairs = zip(result.original[:_CLIPS], result.reconstruction[:_CLIPS], strict=True)
    for number, (original, reconstruction) in enumerate(pairs):
        clips = {"original": original, "reconstruction": reconstruction}
        for name, clip in clips.items():
            samples = np.clip(clip.numpy(), -1, 1)
            tracker.audio(step, f"clip {number}/{name}", samples, sample_rate)


class TrainingLog:
    """pytorch-lightning's metrics of the training steps, handed to the supervisor."""

    supervisor: Supervisor

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if values and step is not None:
            self.supervisor.track_training(values, step + 1)


class AtomicCheckpoints:
    """pytorch-lightning's way to the disk: whole files, read without running code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None) -> dict[str, Any]:
        # What is continued has been examined before; DDP's own temporary files come here too.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        assert isinstance(loaded, dict)
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
