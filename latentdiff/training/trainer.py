"""The training loop: `Trainer.fit`, read from top to bottom."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from latentdiff.config import Values
from latentdiff.diffusion.denoiser import NO_DROPOUT, ConditionDropout
from latentdiff.interrupt import StopRequest
from latentdiff.tracking import Tracker, progress
from latentdiff.training import checkpoint, verdict
from latentdiff.training.batch_sampler import BatchSampler, StepBatch
from latentdiff.training.best_tracker import BestTracker
from latentdiff.training.budget import Budget
from latentdiff.training.checkpoint_io import CheckpointIO, Progress
from latentdiff.training.data import Windows, seed_of
from latentdiff.training.denoiser_learner import DenoiserLearner
from latentdiff.training.evaluator import Evaluator
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.failure import explained, refuse_not_finite
from latentdiff.training.meter import Meter, TrainingMetrics
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import BaselineLosses, Task
from latentdiff.training.validation import Validation

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from tqdm import tqdm

log = logging.getLogger(__name__)

JUDGE_AFTER = 300
"""Steps after which a model without skill is warned of."""
Demo = Callable[[int, nn.Module, Tracker], None]
"""Called with the step, the averaged weights, and the tracker to show the demo in."""


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of a finished training."""

    step: int
    """The last step."""
    training: TrainingMetrics
    """The last line of metrics."""
    validation: Validation | None
    """Validation of the averaged weights at the last step; None without held-out files."""
    best: Validation | None
    """Validation of the weights in `path`: the newest at which the held-out loss had not risen; or
    None."""
    best_step: int | None
    """Step of those weights, or None."""
    path: Path
    """The weights to sample from."""


class StepActions(NamedTuple):
    """Actions after a step."""

    log: bool
    """A line of metrics; always True if any other is."""
    validate: bool
    save: bool
    keep: bool
    """The checkpoint is kept beside `last`."""
    demo: bool


class Trainer:
    """Trains a denoiser on windows of latents, and logs whether it learns anything.

    All randomness comes from (seed, step). So on one device a run that was stopped and continued
    is, bit for bit, the run that was not (on a GPU as far as its kernels are deterministic), unless
    `training.hours` is set and the learning rate follows the clock.

    `constants` (named groups of tensors such as the whitening) and `header` go into every
    checkpoint beside the averaged weights. `frame_rate`: latent frames per second, for the speed in
    seconds of audio. `demo` is called at step 0 and every `training.demo_every` steps. `fabric`:
    already launched if several devices work together; each then computes its share of a batch, and
    the first one alone writes files.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        task: Task,
        train: Windows,
        validation: Windows | None,
        settings: TrainingConfig,
        directory: Path,
        *,
        constants: Mapping[str, Mapping[str, Tensor]] | None = None,
        header: Values | None = None,
        condition_dropout: ConditionDropout = NO_DROPOUT,
        seed: int = 0,
        device: str = "auto",
        fabric: Fabric | None = None,
        frame_rate: float | None = None,
        demo: Demo | None = None,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.baselines: BaselineLosses | None = task.baseline_losses(train)
        self._train = train
        self._seed = seed
        self._demo = demo
        self._fabric = fabric or make_fabric(Launch(device), settings.precision)
        self._group = ProcessGroup(self._fabric)
        self._learner = DenoiserLearner(denoiser, task, settings, self._fabric, self._group)
        target = self._fabric.device
        windows = train.to(target)
        self._batch_sampler = BatchSampler(
            windows, task, settings.batch, condition_dropout, seed, self._group, target
        )
        self._evaluator: Evaluator | None = None
        if validation is not None:
            self._evaluator = Evaluator(task, train, validation, settings, self._group)
        self._budget = Budget(settings)
        self._meter = Meter(self._group, settings.window, frame_rate)
        self._best_tracker = BestTracker()
        self._checkpoints = CheckpointIO(
            directory, settings, self._learner, self._best_tracker, constants or {}, header or {}
        )
        self._tracker: Tracker | None = None
        self._progress = Progress()
        self._began = self._clock = time.monotonic()

    def fit(self) -> TrainingOutcome:
        """Train until steps or hours are used up, from the last checkpoint if there is one.

        Raises UserError if a loss becomes NaN or infinite, memory or disk run out, or the
        checkpoint cannot be read; KeyboardInterrupt on Ctrl-C, once a checkpoint is written.
        """
        self._restore()
        with (
            explained(self.settings, self._fabric.device),
            self._open_tracker() as self._tracker,
            self._progress_bar() as bar,
            StopRequest() as stop,
        ):
            stopping = self._prepare()
            while not (stopping or self._over() or self._exhausted()):
                self._progress.step += 1
                # Fresh windows, levels and noise, all drawn from (seed, step).
                step_batch = self._draw()
                # Loss, gradient, weights, averaged weights.
                self._update(step_batch)
                # Processes must agree on time and end, or some would wait for the others forever.
                stopping, self._progress.elapsed = self._group.agree(stop.requested, self._time())
                self._advance(bar)
                due = self._due(stopping)
                if not due.log:
                    continue
                # The mean training loss beside its baseline; NaN ends the training here, so that
                # what follows never validates or saves broken weights.
                metrics = self._report()
                bar.set_postfix_str(verdict.running(metrics.metrics()))
                # The same on held-out windows.
                if due.validate:
                    self._validate(metrics)
                # From here on training can continue, whatever happens next.
                if due.save or self._exhausted():
                    self._save(due.keep)
                if due.demo:
                    self._show_demo()
                self._meter.restart()
        return self._end(stopping)

    def _prepare(self) -> bool:
        """Compile, show the first demo and start the clock; returns that nobody asked to stop."""
        self._clock = time.monotonic() - self._progress.elapsed
        if self.settings.compile and not self._over():
            self._learner.compile(self._batch_sampler.draw(self._progress.step + 1))
        if self._progress.step == 0:
            self._show_demo()
        self._meter.restart()
        return False

    def _over(self) -> bool:
        return self._budget.over(*self._now)

    def _exhausted(self) -> bool:
        return self._best_tracker.exhausted(self.settings.patience)

    @property
    def _now(self) -> tuple[int, float]:
        """Steps and seconds so far, by which everything is scheduled."""
        return self._progress.step, self._progress.elapsed

    def _time(self) -> float:
        """Seconds of this run, over all attempts."""
        return time.monotonic() - self._clock

    def _due(self, stopping: bool) -> StepActions:
        step, over, budget = self._progress.step, self._over(), self._budget

        def every(interval: int) -> bool:
            return over or step % interval == 0

        validate = every(budget.validation_interval(*self._now))
        keep = self.settings.keep_every is not None and step % self.settings.keep_every == 0
        save = stopping or keep or every(budget.checkpoint_interval(*self._now))
        demo = self._demo is not None and every(budget.demo_interval(*self._now))
        line = validate or save or demo or every(budget.log_interval(*self._now))
        return StepActions(line, validate, save, keep, demo)

    def _draw(self) -> StepBatch:
        started = time.monotonic()
        step_batch = self._batch_sampler.draw(self._progress.step)
        self._meter.waited(time.monotonic() - started)
        return step_batch

    def _update(self, step_batch: StepBatch) -> None:
        """One step of the optimiser and of the averaged weights."""
        step = self._progress.step
        rate = self._budget.learning_rate(*self._now)
        # The network's own randomness (dropout) is seeded at every step as well: a generator that
        # ran on from step to step would be in another state after a resume.
        seed = seed_of(self._seed, step, "network", self._group.rank)
        measured = self._learner.step(step, step_batch, rate=rate, seed=seed)
        self._progress.seen += self.settings.batch
        seen = self._progress.seen
        self._learner.average(seen, self._budget.halflife(step, seen, self._progress.elapsed))
        self._meter.add(measured)

    def _report(self) -> TrainingMetrics:
        """One line of metrics over the steps since the last; raises UserError on NaN."""
        metrics = self._meter.read()
        if not (math.isfinite(metrics.loss) and self._learner.finite()):
            failures = self._group.gather(self._meter.first_non_finite())
            refuse_not_finite(failures, self._train, self._group)
        self._progress.metrics = metrics
        rate, hours = self._budget.learning_rate(*self._now), self._progress.elapsed / 3600
        self._track({**metrics.metrics(), "learning_rate": rate, "hours": hours})
        return metrics

    def _track(self, values: Mapping[str, float], prefix: str = "") -> None:
        if self._tracker is not None:
            self._tracker.scalars(self._progress.step, values, prefix)

    def _validate(self, metrics: TrainingMetrics) -> None:
        """Validate the averaged weights; they become `best` unless their loss has risen."""
        if self._evaluator is None:
            self._judge(metrics.metrics())
            return
        step = self._progress.step
        result = self._evaluator.evaluate(self._learner, self._fabric.device)
        kept = self._best_tracker.update(step, result)
        share = self._evaluator.seconds / (time.monotonic() - self._began)
        self._track({**result.metrics(), "share_of_time": share}, prefix="validation/")
        log.info("%s", verdict.validation(step, result, metrics.metrics(), kept))
        if kept:
            self._group.lead(lambda: self._checkpoints.save_best(step))
        if self._best_tracker.overfitting():
            assert self._best_tracker.lowest is not None
            lowest_step, lowest = self._best_tracker.lowest_step, self._best_tracker.lowest
            log.warning("%s", verdict.overfitting(step, lowest_step, result, lowest))
        self._judge(result.metrics())

    def _judge(self, values: Mapping[str, float]) -> None:
        """Warn, once, if there is no skill after the first few hundred steps."""
        if self._progress.judged or self._progress.step < JUDGE_AFTER:
            return
        self._progress.judged = True
        if values["skill"] < verdict.NO_SKILL:
            learnable = None if self.baselines is None else self.baselines.learnable
            log.warning("%s", verdict.no_skill(self._progress.step, values, learnable))

    def _show_demo(self) -> None:
        if self._demo is not None:
            self._group.lead(self._run_demo)

    def _run_demo(self) -> None:
        assert self._demo is not None and self._tracker is not None
        self._demo(self._progress.step, self._checkpoints.average.module, self._tracker)

    def _save(self, keep: bool) -> None:
        self._group.lead(lambda: self._checkpoints.save(self._progress, keep))

    def _restore(self) -> None:
        restored = self._checkpoints.restore()
        if restored is not None:
            self._progress = restored
            log.info("continuing from step %d of %s", restored.step, self._budget.describe())

    def _open_tracker(self) -> AbstractContextManager[Tracker | None]:
        if not self._group.leads:
            return nullcontext()
        # Lines of metrics after the restored step are dropped: those steps are run again.
        step = self._progress.step or None
        return Tracker(self.directory, resume_step=step, wandb=self.settings.wandb)

    def _progress_bar(self) -> tqdm[Any]:
        if self._budget.timed:
            what = f"training for {self._budget.describe()}"
            return progress(total=100.0, initial=self._percent(), unit="%", what=what)
        step = self._progress.step
        return progress(total=self.settings.steps, initial=step, unit="step", what="training")

    def _advance(self, bar: tqdm[Any]) -> None:
        bar.update(self._percent() - bar.n if self._budget.timed else 1)

    def _percent(self) -> float:
        return round(100 * self._budget.progress(*self._now), 1)

    def _end(self, stopping: bool) -> TrainingOutcome:
        """The outcome; raises KeyboardInterrupt if training was stopped before its end."""
        step, best_tracker = self._progress.step, self._best_tracker
        if self._exhausted():
            patience = self.settings.patience or 0
            log.info("%s", verdict.early(step, best_tracker.lowest_step, patience))
        elif stopping and not self._over():
            log.info("stopped at step %d; the same command continues", step)
            raise KeyboardInterrupt
        assert self._progress.metrics is not None  # every training ends with a line of metrics
        path = checkpoint.last if best_tracker.best is None else checkpoint.best
        return TrainingOutcome(
            step=step,
            training=self._progress.metrics,
            validation=best_tracker.last,
            best=best_tracker.best,
            best_step=best_tracker.best_step,
            path=path(self.directory),
        )
