"""The training loop: `Trainer.fit`, read from top to bottom.

Shapes: B windows in a batch, C latent channels, W frames of a window.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentdiff.diffusion.denoiser import dropped
from latentdiff.errors import UserError
from latentdiff.interrupt import StopRequest
from latentdiff.tracking import Tracker, progress
from latentdiff.training import checkpoint, verdict
from latentdiff.training.budget import Budget
from latentdiff.training.data import Batch, Windows, generator_for, seed_of
from latentdiff.training.ema import Ema
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.meter import Meter
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import References, Task, knows_variance
from latentdiff.training.validation import Validation, Validator

log = logging.getLogger(__name__)

JUDGE_AFTER = 300
"""Steps after which a model without skill is called one."""


@dataclass(frozen=True)
class Outcome:
    """What training has come to."""

    step: int
    training: dict[str, float]
    """Loss, baseline and skill over the last line of metrics."""
    validation: Validation | None
    """Of the averaged weights at the last step; None without held-out files."""
    best: Validation | None
    """The one with the lowest loss so far."""
    best_step: int | None
    path: Path
    """The weights to sample from."""


class Draw(NamedTuple):
    """All that is random about a training step."""

    batch: Batch
    logsnr: Tensor
    """[B]."""
    noise: Tensor
    """[B, C, W]."""


class Trainer:
    """Trains a denoiser on windows of latents, and says whether it learns anything.

    Everything random is drawn from (seed, step), so a run that was stopped and continued is, on
    one device, the same run bit for bit; not so where `training.hours` is given, as the learning
    rate then follows the clock. `constants` (named groups of tensors such as the
    whitening) and `header` go into every checkpoint beside the averaged weights.
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
    ) -> None:
        self.settings = settings
        self.directory = directory
        self._task = task
        self._train = train
        self._constants = dict(constants or {})
        self._header = dict(header or {})
        self._dropout = condition_dropout
        self._seed = seed
        self._fabric = make_fabric(Launch(device), settings.precision)
        self._network = denoiser
        self._budget = Budget(settings)
        halflives = settings.ema_halflives
        self._ema = Ema(denoiser, halflives[0] if halflives else None)
        self._ema.module.to(self._fabric.device)
        optimizer = torch.optim.AdamW(
            denoiser.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._model, self._optimizer = self._fabric.setup(denoiser, optimizer)
        self._validator = self._make_validator(validation)
        self.references: References = task.references(train)
        self._meter = Meter()
        self._step = 0
        self._elapsed = 0.0
        self._clock = time.monotonic()
        self._seen = 0
        self._best: Validation | None = None
        self._best_step: int | None = None
        self._validation: Validation | None = None
        self._training: dict[str, float] = {}
        self._judged = False

    def fit(self) -> Outcome:
        """Train until steps or hours are spent, from the last checkpoint where there is one.

        Raises UserError where a loss is NaN or infinite, or the checkpoint cannot be read;
        KeyboardInterrupt after Ctrl-C, when the checkpoint has been written.
        """
        # Where a former run stopped.
        self._restore()
        with (
            Tracker(self.directory, resume_step=self._step or None) as tracker,
            self._progress() as bar,
            StopRequest() as stop,
        ):
            self._clock = time.monotonic() - self._elapsed
            while not self._over() and not stop.requested:
                self._step += 1
                # Fresh windows, levels and noise, all drawn from (seed, step).
                draw = self._draw(self._step)
                # Loss, gradient, weights, averaged weights.
                self._update(draw)
                self._elapsed = time.monotonic() - self._clock
                self._advance(bar)
                # What it amounts to, beside the baseline.
                saving = stop.requested or self._due(self._budget.checkpoint_interval)
                validating = self._due(self._budget.validation_interval)
                if saving or validating or self._due(self._budget.log_interval):
                    self._report(tracker)
                    bar.set_postfix_str(f"step {self._step} {verdict.short(self._training)}")
                # The same on held-out windows.
                if validating:
                    self._validate(tracker)
                # Whatever happens next, training continues from here.
                if saving:
                    self._save()
        if stop.requested and not self._over():
            log.info("stopped at step %d; the same command continues", self._step)
            raise KeyboardInterrupt
        return self._outcome()

    def _over(self) -> bool:
        return self._budget.over(self._step, self._elapsed)

    def _due(self, interval: Callable[[int, float], int]) -> bool:
        return self._step % interval(self._step, self._elapsed) == 0 or self._over()

    def _progress(self) -> Any:
        if self._budget.timed:
            return progress(total=100.0, initial=self._percent(), unit="%", what="training")
        return progress(total=self.settings.steps, initial=self._step, unit="step", what="training")

    def _advance(self, bar: Any) -> None:
        bar.update(self._percent() - bar.n if self._budget.timed else 1)

    def _percent(self) -> float:
        return round(100 * self._budget.progress(self._step, self._elapsed), 1)

    def _draw(self, step: int) -> Draw:
        """The training batch of a step: a function of the seed and the step alone."""
        started = time.monotonic()
        size = self.settings.batch
        batch = self._train.draw(size, generator_for(self._seed, step, "windows"))
        logsnr = self._task.draw(size, generator_for(self._seed, step, "levels"))
        chance = generator_for(self._seed, step, "dropout")
        condition = dropped(batch.condition, self._dropout, size, chance)
        noise = torch.randn(batch.latents.shape, generator=generator_for(self._seed, step, "noise"))
        device = self._fabric.device
        draw = Draw(
            batch._replace(condition=condition).to(device), logsnr.to(device), noise.to(device)
        )
        self._meter.waited(time.monotonic() - started)
        return draw

    def _update(self, draw: Draw) -> None:
        """One step of the optimiser and of the averaged weights."""
        self._set_learning_rate()
        # The network's own randomness (dropout) starts anew at every step, for exact resume.
        torch.manual_seed(seed_of(self._seed, self._step, "network"))
        self._network.train()
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._task.losses(self._model, *draw)
        self._fabric.backward(losses.mean())
        norm = None
        if self.settings.gradient_clip is not None:
            norm = self._fabric.clip_gradients(
                self._model,
                self._optimizer,
                max_norm=self.settings.gradient_clip,
                error_if_nonfinite=False,
            )
        self._optimizer.step()
        self._seen += self.settings.batch
        halflife = self._budget.halflife(self._step, self._seen, self._elapsed)
        self._ema.update(self._network, self.settings.batch, self._seen, halflife)
        with torch.no_grad():
            baselines = self._task.losses(knows_variance, *draw)
        self._meter.add(self._step, losses, baselines, norm)

    def _set_learning_rate(self) -> None:
        rate = self._budget.learning_rate(self._step, self._elapsed)
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _report(self, tracker: Tracker) -> None:
        """One line of metrics over the steps since the last; stops on NaN."""
        self._refuse_not_finite()
        self._training = self._meter.read()
        rate = self._budget.learning_rate(self._step, self._elapsed)
        tracker.scalars(self._step, {**self._training, "learning_rate": rate})

    def _refuse_not_finite(self) -> None:
        found = self._meter.not_finite()
        if found is None:
            return
        step, bad = found
        draw = self._draw(step)
        files = sorted({self._train.describe(draw.batch, i) for i in bad.nonzero()[:, 0].tolist()})
        levels = draw.logsnr.cpu()[bad]
        raise UserError(
            f"the loss became NaN or infinite at step {step}, "
            f"in {int(bad.sum())} of {len(bad)} windows",
            why=f"log-SNR {levels.min():.1f} to {levels.max():.1f}, files: {verdict.some(files)}",
            do_this="lower training.learning_rate or training.gradient_clip, or use "
            "training.precision=32; checkpoints/ holds the last good state, and the same command "
            "continues from it.",
        )

    def _make_validator(self, windows: Windows | None) -> Validator | None:
        if windows is None:
            return None
        fixed = windows.spread(self.settings.validation_windows)
        return Validator(fixed, self._task, self.settings.validation_levels, self.settings.batch)

    def _validate(self, tracker: Tracker) -> None:
        """Averaged weights on the held-out windows; the best are kept."""
        if self._validator is None:
            self._judge(self._training)
            return
        with self._fabric.autocast():
            result = self._validator.measure(self._ema.module, self._fabric.device)
        self._validation = result
        tracker.scalars(self._step, result.metrics(), prefix="validation/")
        better = self._best is None or result.loss < self._best.loss
        log.info("%s", verdict.validation(self._step, result, self._training, better))
        if better:
            self._best, self._best_step = result, self._step
            self._save_weights(checkpoint.best(self.directory))
        self._judge(result.metrics())
        self._meter.restart_clock()

    def _judge(self, values: Mapping[str, float]) -> None:
        """Say it, once, when there is no skill after the first few hundred steps."""
        if self._judged or self._step < JUDGE_AFTER:
            return
        self._judged = True
        if values["skill"] < verdict.NO_SKILL:
            learnable = self.references.learnable
            log.warning("%s", verdict.no_skill(self._step, values, learnable))

    def _save_weights(self, path: Path) -> None:
        validation = None if self._validation is None else self._validation.metrics()
        header = {**self._header, "step": self._step, "validation": validation}
        network = self._ema.module.state_dict()
        checkpoint.save_weights(path, checkpoint.pack(network=network, **self._constants), header)

    def _save(self) -> None:
        # The state comes last: it alone decides where training continues.
        self._save_weights(checkpoint.last(self.directory))
        checkpoint.save_state(
            checkpoint.state(self.directory),
            {
                "step": self._step,
                "seen": self._seen,
                "elapsed": self._elapsed,
                "model": self._network.state_dict(),
                "ema": self._ema.module.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "precision": self._fabric.strategy.precision.state_dict(),
                "training": self._training,
                "validation": self._validation and asdict(self._validation),
                "best": self._best and asdict(self._best),
                "best_step": self._best_step,
                "judged": self._judged,
            },
        )
        self._meter.restart_clock()

    def _restore(self) -> None:
        path = checkpoint.state(self.directory)
        state = checkpoint.load_state(path)
        if state is None:
            return
        try:
            self._network.load_state_dict(state["model"])
            self._ema.module.load_state_dict(state["ema"])
            self._optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{path} belongs to another network",
                why=" ".join(str(error).split())[:200],
                do_this="--overwrite trains anew; another --run keeps both.",
            ) from error
        self._fabric.strategy.precision.load_state_dict(state["precision"])
        self._step, self._seen, self._elapsed = state["step"], state["seen"], state["elapsed"]
        self._training, self._judged = state["training"], state["judged"]
        self._validation = state["validation"] and Validation(**state["validation"])
        self._best = state["best"] and Validation(**state["best"])
        self._best_step = state["best_step"]
        log.info("continuing from step %d of %s", self._step, self.settings.steps or "any number")

    def _outcome(self) -> Outcome:
        path = checkpoint.last if self._best is None else checkpoint.best
        return Outcome(
            step=self._step,
            training=self._training,
            validation=self._validation,
            best=self._best,
            best_step=self._best_step,
            path=path(self.directory),
        )
