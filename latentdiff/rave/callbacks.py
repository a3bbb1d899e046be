"""What happens between the steps of a RAVE training: validation, checkpoints, progress, stopping.

The classes here implement pytorch-lightning's hooks without its base classes; `train.py` adds
those, because pytorch-lightning may only be imported when a training starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import tracking
from latentdiff.interrupt import StopRequest
from latentdiff.rave.checkpoint import RESULT_KEY, write_checkpoint
from latentdiff.rave.clock import ClockedSchedule, RunClock
from latentdiff.rave.dataset import FixedCrops
from latentdiff.rave.result import BestValidation, LastValidation, RaveTrainingResult, validations
from latentdiff.rave.validation import RaveValidation, validate

if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from rave import RAVE
    from tqdm import tqdm

log = logging.getLogger(__name__)

LAST = "last.ckpt"
BEST = "best.ckpt"
_CLIPS = 2
"""Pairs of original and reconstruction that TensorBoard gets at each validation."""


@dataclass(frozen=True)
class StepPlan:
    """What is decided before the first step."""

    start: int
    """Steps done before this call."""
    validate_every: int | None
    """Steps between validations; None: by the clock."""
    checkpoint_every: int | None
    """Steps between writings of last.ckpt; None: as often as validation."""
    seed: int


class Supervisor:
    """Validates, saves, reports and stops, always between two steps.

    `best.ckpt` is the best by validation *within the current phase*: the discriminator of phase 2
    makes sound better and the spectral distance worse, so a best kept from phase 1 would freeze.
    It must be the first callback: RAVE's own count the coming step as soon as it begins, so a
    checkpoint written after them would skip one.
    """

    def __init__(
        self,
        plan: StepPlan,
        result: RaveTrainingResult,
        clock: RunClock,
        lengths: ClockedSchedule,
        checkpoints: Path,
        crops: FixedCrops,
        more_crops: FixedCrops,
        open_tracker: Callable[[], tracking.Tracker],
        stop: StopRequest,
    ) -> None:
        """`result`: what is known at the start; `lengths` finds the lengths that it leaves open.

        `more_crops`: training crops, see `validate`.
        """
        self.result = result
        self._rng: Mapping[str, Tensor | None] | None = None
        self._plan = plan
        self._clock = clock
        self._lengths = lengths
        self._checkpoints = checkpoints
        self._crops = crops
        self._more_crops = more_crops
        self._open_tracker = open_tracker
        self._tracker: tracking.Tracker | None = None
        self._stop = stop
        self._bar: tqdm[Any] | None = None
        self._reported = (plan.start, 0.0)
        """Step and seconds of the training at the last report."""

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: what a continued run needs besides the model."""
        plain = asdict(self.result)
        kept = {name: plain[name] for name in ("best", "first", "last")}
        return {**kept, "rng": self._rng, "validation_seconds": self._clock.validation_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lightning's hook: the opposite of `state_dict`."""
        self.result = replace(self.result, **validations(state))
        self._rng = state["rng"]
        # Checkpoints written before this was recorded lack it.
        self._clock.validation_seconds = state.get("validation_seconds", 0.0)

    def on_save_checkpoint(self, trainer: Trainer, model: RAVE, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook: record in the checkpoint how far the training is."""
        step = trainer.global_step
        phase, elapsed = self._phase(step), self._clock.now()
        self.result = replace(self.result, step=step, phase=phase, elapsed=elapsed)
        checkpoint[RESULT_KEY] = self.result.to_dict()

    def on_fit_start(self, trainer: Trainer, model: RAVE) -> None:
        """Lightning's hook: open the metrics."""
        if trainer.is_global_zero:
            # Not earlier: TensorBoard's writer thread would not survive the fork of DDP.
            self._tracker = self._open_tracker()

    def on_train_start(self, trainer: Trainer, model: RAVE) -> None:
        """Lightning's hook: seed, show progress, measure the model before its first step."""
        self._set_generators(trainer)
        self._lengths.start(model, self.result.schedule)
        self._clock.read(trainer)
        self._reported = (self._plan.start, self._clock.elapsed)
        if trainer.is_global_zero:
            self._bar = self._open_bar()
        if self.result.best is not None and not (self._checkpoints / BEST).exists():
            # It came with the checkpoint of another run, which is continued here.
            self.result = replace(self.result, best=None)
        if self._plan.start == 0 or self.result.first is None:
            self._validate(trainer, model)

    def on_train_batch_start(
        self, trainer: Trainer, model: RAVE, batch: Tensor, batch_idx: int
    ) -> None:
        """Lightning's hook: save, validate or stop where it is time, prepare the next step."""
        step = trainer.global_step
        if step > self._plan.start:
            self._between_steps(trainer, model, step)
        progress = self._clock.progress(step)
        schedule = self._lengths.fit(trainer, model, self.result.schedule, progress)
        self.result = replace(self.result, schedule=schedule)

    def _between_steps(self, trainer: Trainer, model: RAVE, step: int) -> None:
        every, save_every = self._plan.validate_every, self._plan.checkpoint_every
        validation_due = self._clock.validation_due() if every is None else step % every == 0
        save_due = validation_due or (save_every is not None and step % save_every == 0)
        # Saved before the validation, which takes a while and may fail.
        if self._stop.requested or save_due:
            self._save(trainer, LAST)
        if self._stop.requested:
            raise KeyboardInterrupt
        if validation_due:
            self._validate(trainer, model)

    def on_train_batch_end(
        self, trainer: Trainer, model: RAVE, outputs: object, batch: Tensor, batch_idx: int
    ) -> None:
        """Lightning's hook: advance the progress bar; end the run where its hours are used up."""
        step = trainer.global_step
        self._clock.read(trainer)
        if self._bar is not None:
            self._bar.set_description(f"train-rave phase {self._phase(step)}", refresh=False)
            self._bar.update(self._bar_position(step) - self._bar.n)
        if self._clock.progress(step) >= 1:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, model: RAVE) -> None:
        """Lightning's hook: last validation, with principal directions of training crops too."""
        self._save(trainer, LAST)
        self._validate(trainer, model, also=self._more_crops)
        # Again: the validation has changed the result and the model's principal directions.
        self._save(trainer, LAST)

    def on_before_optimizer_step(
        self, trainer: Trainer, model: RAVE, optimizer: torch.optim.Optimizer, optimizer_idx: int
    ) -> None:
        """Lightning's hook: average gradients over devices.

        RAVE calls `backward` itself, bypassing the DDP wrapper that would do it, so without this
        each device would train a model of its own.
        """
        if trainer.world_size == 1:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= trainer.world_size

    def teardown(self, trainer: Trainer, model: RAVE, stage: str) -> None:
        """Lightning's hook."""
        self.close()

    def close(self) -> None:
        """Close metrics and progress bar; may be called again."""
        if self._bar is not None:
            self._bar.close()
        if self._tracker is not None:
            self._tracker.close()
        self._bar = self._tracker = None

    def track_training(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics after training step number `step`; only the first device keeps them."""
        if self._tracker is not None:
            values = {**metrics, "phase": self._phase(step)}
            self._tracker.scalars(step, values, prefix="train/")

    def _phase(self, step: int) -> int:
        return self.result.schedule.phase(step)

    def _open_bar(self) -> tqdm[Any]:
        """A bar in steps, or in per cent of a budget with hours."""
        step, length = self._plan.start, self._clock.length
        if length.timed:
            start = self._bar_position(step)
            return tracking.progress(total=100.0, initial=start, unit="%", what="train-rave")
        steps = length.settings.steps
        return tracking.progress(total=steps, initial=step, unit="step", what="train-rave")

    def _bar_position(self, step: int) -> float:
        timed = self._clock.length.timed
        return round(100 * self._clock.progress(step), 1) if timed else step

    def _set_generators(self, trainer: Trainer) -> None:
        """Start torch's generators from the seed, or where the checkpoint left them."""
        saved = self._rng
        if saved is None or trainer.world_size > 1:
            # A checkpoint holds the generators of one process only. `start` in the seed keeps a
            # continued run of several from drawing its first numbers again.
            torch.manual_seed(self._plan.seed + self._plan.start + trainer.global_rank)
            return
        if (cpu := saved["cpu"]) is not None:
            torch.set_rng_state(cpu)
        if (cuda := saved["cuda"]) is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(cuda)

    def _save(self, trainer: Trainer, name: str) -> None:
        on_cuda = trainer.strategy.root_device.type == "cuda"
        cuda = torch.cuda.get_rng_state() if on_cuda else None
        self._rng = {"cpu": torch.get_rng_state(), "cuda": cuda}
        trainer.save_checkpoint(self._checkpoints / name)

    def _validate(self, trainer: Trainer, model: RAVE, also: FixedCrops | None = None) -> None:
        """Validate on the first device while the others wait; keep the best."""
        self._clock.read(trainer)
        began = self._clock.elapsed
        if trainer.is_global_zero:
            # Ctrl-C may interrupt a validation: it changes no state.
            self._stop.at_once = True
            if self._stop.requested:
                raise KeyboardInterrupt
            validation = validate(model, self._crops, seed=self._plan.seed, also=also)
            self._stop.at_once = False
            self._update_result(validation, trainer.global_step)
            self._report(validation, trainer.global_step, model)
        trainer.strategy.barrier()
        # Every device takes part in saving, so every device must know that it is time.
        if trainer.strategy.broadcast(self._is_best(trainer.global_step)):
            self._save(trainer, BEST)
        self._clock.validated(trainer, began)

    def _update_result(self, validation: RaveValidation, step: int) -> None:
        phase, distance = self._phase(step), validation.distance
        best = self.result.best
        better = best is None or best.phase != phase or distance < best.distance
        if step > 0 and better:
            best = BestValidation(distance, phase, step)
        first = self.result.first
        self.result = replace(
            self.result,
            first=distance if first is None else first,
            last=LastValidation(distance, dict(validation.fidelity)),
            best=best,
        )

    def _report(self, validation: RaveValidation, step: int, model: RAVE) -> None:
        values = {
            "spectral_distance": validation.distance,
            **{f"fidelity_{share}": float(n) for share, n in validation.fidelity.items()},
            "phase": self._phase(step),
            "beta": float(model.beta_factor),
        }
        assert self._tracker is not None
        self._tracker.scalars(step, values, prefix="validation/")
        _show_sound(self._tracker, validation, step, int(model.sr))
        log.info(
            "%s  phase %d  reconstruction %.3f (%s %.3f)  %s",
            *(self._clock.position(step), self._phase(step), validation.distance),
            *(self.result.start_name, self.result.first, self._pace(step)),
        )

    def _is_best(self, step: int) -> bool:
        best = self.result.best
        return best is not None and best.step == step

    def _pace(self, step: int) -> str:
        """Speed since the last report, and what is left at that speed."""
        (since, then), now = self._reported, self._clock.now()
        self._reported = (step, now)
        if step <= since:
            return "starting"
        rate = (step - since) / max(now - then, 1e-9)
        seconds = self._clock.seconds_left(step, rate)
        left = f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d} left"
        if self._clock.length.timed:
            left += f" (about {step + round(rate * seconds):,} steps in all)"
        if self.result.schedule.awaits_phase_2:
            seconds *= self._lengths.left_of_phase_1(self._clock.progress(step))
            left += f", phase 2 from about step {step + round(rate * seconds):,}"
        return f"{rate:.2f} steps/s, {left}"


def _show_sound(
    tracker: tracking.Tracker, validation: RaveValidation, step: int, sample_rate: int
) -> None:
    """Show the first clips in TensorBoard, each original next to its reconstruction."""
    originals, reconstructions = validation.original[:_CLIPS], validation.reconstruction[:_CLIPS]
    for number, pair in enumerate(zip(originals, reconstructions, strict=True)):
        for name, clip in zip(("original", "reconstruction"), pair, strict=True):
            samples = np.clip(clip.numpy(), -1, 1)
            tracker.audio(step, f"clip {number}/{name}", samples, sample_rate)


class TrainingLog:
    """A Lightning logger that hands the metrics of the training steps to the supervisor."""

    supervisor: Supervisor

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Lightning's hook; `step` counts from 0."""
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if values and step is not None:
            self.supervisor.track_training(values, step + 1)


class AtomicCheckpoints:
    """Lightning's checkpoint plugin: files appear whole, and are read without running code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Lightning's hook."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, map_location: object = None) -> dict[str, Any]:
        """Lightning's hook."""
        # Not `read_checkpoint`: DDP's own temporary files come here too, and they have no weights.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        assert isinstance(loaded, dict)
        return loaded

    def remove_checkpoint(self, path: str | Path) -> None:
        """Lightning's hook."""
        Path(path).unlink(missing_ok=True)
