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

from latentdiff.interrupt import StopRequest
from latentdiff.tracking import Tracker, progress
from latentdiff.training import checkpoint, verdict
from latentdiff.training.batch_sampler import BatchSampler, StepBatch
from latentdiff.training.best_tracker import BestTracker
from latentdiff.training.budget import Budget
from latentdiff.training.data import Windows, seed_of
from latentdiff.training.denoiser_learner import DenoiserLearner
from latentdiff.training.ema import Ema
from latentdiff.training.evaluator import Evaluator
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.failure import explained, refuse_not_finite
from latentdiff.training.meter import Meter
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import References, Task
from latentdiff.training.validation import Validation

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger(__name__)

JUDGE_AFTER = 300
"""Steps after which a model without skill is called one."""
Demo = Callable[[int, nn.Module, Tracker], None]
"""Called with the step, the averaged weights, and where to tell of them."""


@dataclass(frozen=True)
class Outcome:
    """What training has come to."""

    step: int
    training: dict[str, float]
    """Loss, baseline and skill over the last line of metrics."""
    validation: Validation | None
    """Of the averaged weights at the last step; None without held-out files."""
    best: Validation | None
    """Of the weights to sample from: the newest whose held-out loss has not risen."""
    best_step: int | None
    path: Path
    """The weights to sample from."""


class Due(NamedTuple):
    """What a step is followed by."""

    line: bool
    """Of metrics; before each of the others too."""
    validation: bool
    save: bool
    keep: bool
    """The checkpoint stays."""
    demo: bool


class Trainer:
    """Trains a denoiser on windows of latents, and says whether it learns anything.

    Everything random is drawn from (seed, step), so a run that was stopped and continued is, on
    one device, the same run bit for bit (on a GPU as far as its kernels are deterministic); not so
    where `training.hours` is given, as the learning rate then follows the clock. `constants` (named
    groups of tensors such as the whitening) and `header` go into every checkpoint beside the
    averaged weights. `frame_rate`: latent frames a second, for telling the speed in seconds of
    audio. `demo` is called at step 0 and every
    `training.demo_every` steps. `fabric`: launched, where several devices work together; each
    then computes its share of a batch, and the first one alone writes.
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
        header: Mapping[str, Any] | None = None,
        condition_dropout: float = 0.0,
        seed: int = 0,
        device: str = "auto",
        fabric: Fabric | None = None,
        frame_rate: float | None = None,
        demo: Demo | None = None,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.references: References = task.references(train)
        self._train = train
        self._constants = dict(constants or {})
        self._header = dict(header or {})
        self._seed = seed
        self._demo = demo
        self._fabric = fabric or make_fabric(Launch(device), settings.precision)
        self._group = ProcessGroup(self._fabric)
        self._learner = DenoiserLearner(denoiser, task, settings, self._fabric, self._group)
        where = self._fabric.device
        windows = train.to(where)
        self._batch_sampler = BatchSampler(
            windows, task, settings.batch, condition_dropout, seed, self._group, where
        )
        self._evaluator: Evaluator | None = None
        if validation is not None:
            self._evaluator = Evaluator(task, train, validation, settings, self._group)
        self._budget = Budget(settings)
        self._meter = Meter(self._group, settings.window, frame_rate)
        self._best_tracker = BestTracker()
        self._tracker: Tracker | None = None
        self._step = 0
        self._seen = 0
        self._elapsed = 0.0
        self._began = self._clock = time.monotonic()
        self._training: dict[str, float] = {}
        self._judged = False

    def fit(self) -> Outcome:
        """Train until steps or hours are spent, from the last checkpoint where there is one.

        Raises UserError where a loss is NaN or infinite, memory runs out, or the checkpoint cannot
        be read; KeyboardInterrupt after Ctrl-C, when the checkpoint has been written.
        """
        # Where a former run stopped.
        self._restore()
        with (
            explained(self.settings, self._fabric.device),
            self._open_tracker() as self._tracker,
            self._progress() as bar,
            StopRequest() as stop,
        ):
            stopping = self._prepare()
            while not (stopping or self._over() or self._exhausted()):
                self._step += 1
                # Fresh windows, levels and noise, all drawn from (seed, step).
                step_batch = self._draw()
                # Loss, gradient, weights, averaged weights.
                self._update(step_batch)
                # What all processes go by: the longest of their clocks, a wish of any to stop.
                stopping, self._elapsed = self._group.agree(stop.requested, self._time())
                self._advance(bar)
                due = self._due(stopping)
                if not due.line:
                    continue
                # What it amounts to, beside the baseline.
                self._report()
                bar.set_postfix_str(verdict.running(self._training))
                # The same on held-out windows.
                if due.validation:
                    self._validate()
                # Whatever happens next, training continues from here.
                if due.save or self._exhausted():
                    self._save(due.keep)
                if due.demo:
                    self._show()
                self._meter.restart()
        return self._end(stopping)

    def _prepare(self) -> bool:
        """What comes before the first step; False, as nobody has asked to stop yet."""
        self._clock = time.monotonic() - self._elapsed
        if self.settings.compile and not self._over():
            self._learner.compile(self._batch_sampler.draw(self._step + 1))
        if self._step == 0:
            self._show()
        self._meter.restart()
        return False

    def _over(self) -> bool:
        return self._budget.over(self._step, self._elapsed)

    def _exhausted(self) -> bool:
        return self._best_tracker.exhausted(self.settings.patience)

    def _time(self) -> float:
        """Seconds of this run, with former attempts."""
        return time.monotonic() - self._clock

    def _due(self, stopping: bool) -> Due:
        over, budget = self._over(), self._budget

        def every(interval: int) -> bool:
            return over or self._step % interval == 0

        now = self._step, self._elapsed
        validation = every(budget.validation_interval(*now))
        keep = self.settings.keep_every is not None and self._step % self.settings.keep_every == 0
        save = stopping or keep or every(budget.checkpoint_interval(*now))
        demo = self._demo is not None and every(budget.demo_interval(*now))
        line = validation or save or demo or every(budget.log_interval(*now))
        return Due(line, validation, save, keep, demo)

    def _draw(self) -> StepBatch:
        started = time.monotonic()
        step_batch = self._batch_sampler.draw(self._step)
        self._meter.waited(time.monotonic() - started)
        return step_batch

    def _update(self, step_batch: StepBatch) -> None:
        """One step of the optimiser and of the averaged weights."""
        rate = self._budget.learning_rate(self._step, self._elapsed)
        # The network's own randomness (dropout) starts anew at every step, for exact resume.
        seed = seed_of(self._seed, self._step, "network", self._group.rank)
        measured = self._learner.step(self._step, step_batch, rate=rate, seed=seed)
        self._seen += self.settings.batch
        halflife = self._budget.halflife(self._step, self._seen, self._elapsed)
        self._learner.average(self._seen, halflife)
        self._meter.add(measured)

    def _report(self) -> None:
        """One line of metrics over the steps since the last; stops on NaN."""
        values = self._meter.read()
        if not (math.isfinite(values["loss"]) and self._learner.finite()):
            found = self._group.gather(self._meter.culprits())
            refuse_not_finite(found, self._train, self._group)
        self._training = values
        rate = self._budget.learning_rate(self._step, self._elapsed)
        self._tell({**values, "learning_rate": rate, "hours": self._elapsed / 3600})

    def _tell(self, values: Mapping[str, float], prefix: str = "") -> None:
        if self._tracker is not None:
            self._tracker.scalars(self._step, values, prefix)

    def _validate(self) -> None:
        """Averaged weights on the held-out windows; kept as long as the loss does not rise."""
        if self._evaluator is None:
            self._judge(self._training)
            return
        result = self._evaluator.evaluate(self._learner, self._fabric.device)
        kept = self._best_tracker.update(self._step, result)
        share = self._evaluator.seconds / (time.monotonic() - self._began)
        self._tell({**result.metrics(), "share_of_time": share}, prefix="validation/")
        log.info("%s", verdict.validation(self._step, result, self._training, kept))
        if kept:
            path = checkpoint.best(self.directory)
            self._group.lead(lambda: self._save_weights(path, self._average))
        if self._best_tracker.overfitting():
            assert self._best_tracker.lowest is not None
            step, lowest = self._best_tracker.lowest_step, self._best_tracker.lowest
            log.warning("%s", verdict.overfitting(self._step, step, result, lowest))
        self._judge(result.metrics())

    @property
    def _average(self) -> Ema:
        """The averaged weights that did best at the last validation."""
        last = self._best_tracker.last
        return self._learner.chosen(None if last is None else last.halflife)

    def _judge(self, values: Mapping[str, float]) -> None:
        """Say it, once, when there is no skill after the first few hundred steps."""
        if self._judged or self._step < JUDGE_AFTER:
            return
        self._judged = True
        if values["skill"] < verdict.NO_SKILL:
            learnable = self.references.learnable
            log.warning("%s", verdict.no_skill(self._step, values, learnable))

    def _show(self) -> None:
        """A demo of the averaged weights."""
        if self._demo is not None:
            self._group.lead(self._demonstrate)

    def _demonstrate(self) -> None:
        assert self._demo is not None and self._tracker is not None
        self._demo(self._step, self._average.module, self._tracker)

    def _save_weights(self, path: Path, average: Ema) -> None:
        last = self._best_tracker.last
        header = {
            **self._header,
            "step": self._step,
            "ema_halflife": average.halflife,
            "validation": None if last is None else last.metrics(),
        }
        network = average.module.state_dict()
        checkpoint.save_weights(path, checkpoint.pack(network=network, **self._constants), header)

    def _save(self, keep: bool) -> None:
        self._group.lead(lambda: self._write(keep))

    def _write(self, keep: bool) -> None:
        # The state comes last: it alone decides where training continues.
        self._save_weights(checkpoint.last(self.directory), self._average)
        for average in self._learner.averages:
            if self.settings.ema_halflives and len(self._learner.averages) > 1:
                assert average.halflife is not None
                path = checkpoint.average(self.directory, average.halflife)
                self._save_weights(path, average)
        state = {
            "step": self._step,
            "seen": self._seen,
            "elapsed": self._elapsed,
            **self._learner.state_dict(),
            "watch": self._best_tracker.state_dict(),
            "training": self._training,
            "judged": self._judged,
        }
        checkpoint.save_state(checkpoint.state(self.directory), state)
        if keep:
            checkpoint.keep(self.directory, self._step, self.settings.keep_last)

    def _restore(self) -> None:
        state = checkpoint.load_newest_state(self.directory)
        if state is None:
            return
        self._learner.load_state_dict(state)
        self._best_tracker.load_state_dict(state["watch"])
        self._step, self._seen, self._elapsed = state["step"], state["seen"], state["elapsed"]
        self._training, self._judged = state["training"], state["judged"]
        log.info("continuing from step %d of %s", self._step, self._budget.describe())

    def _open_tracker(self) -> AbstractContextManager[Tracker | None]:
        if not self._group.leads:
            return nullcontext()
        return Tracker(self.directory, resume_step=self._step or None, wandb=self.settings.wandb)

    def _progress(self) -> Any:
        if self._budget.timed:
            what = f"training for {self._budget.describe()}"
            return progress(total=100.0, initial=self._percent(), unit="%", what=what)
        return progress(total=self.settings.steps, initial=self._step, unit="step", what="training")

    def _advance(self, bar: Any) -> None:
        bar.update(self._percent() - bar.n if self._budget.timed else 1)

    def _percent(self) -> float:
        return round(100 * self._budget.progress(self._step, self._elapsed), 1)

    def _end(self, stopping: bool) -> Outcome:
        """What training has come to, or KeyboardInterrupt where it is not at its end."""
        if self._exhausted():
            patience = self.settings.patience or 0
            log.info("%s", verdict.early(self._step, self._best_tracker.lowest_step, patience))
        elif stopping and not self._over():
            log.info("stopped at step %d; the same command continues", self._step)
            raise KeyboardInterrupt
        best_tracker = self._best_tracker
        path = checkpoint.last if best_tracker.best is None else checkpoint.best
        return Outcome(
            step=self._step,
            training=self._training,
            validation=best_tracker.last,
            best=best_tracker.best,
            best_step=best_tracker.best_step,
            path=path(self.directory),
        )
