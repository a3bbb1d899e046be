"""RAVE by the clock: how far a training is, and phases and rates that fit themselves to its hours.

Nothing here is planned in steps: a machine that slows down half-way gets through fewer of them, but
both phases keep their share of the time and the run still ends when it should.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from latentdiff.rave.gin_config import BETA_WARMUP
from latentdiff.rave.result import RaveSchedule
from latentdiff.run_length import RunLength

if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from rave import RAVE, BetaWarmupCallback

VALIDATIONS = 20
"""Validations that fit in the hours of a run ..."""
LONGEST_INTERVAL = 900.0
"""... but there are never more seconds between two of them, as each saves a checkpoint ..."""
VALIDATION_SHARE = 0.1
"""... and they take no more than about this share of the time."""


class RunClock:
    """Steps and wall-clock time of a training, over all attempts, against its budget."""

    def __init__(self, length: RunLength, elapsed: float, began: float, final: float) -> None:
        """`elapsed`: seconds of earlier attempts; `began`: when this one did, by `time.monotonic`.

        `final`: how many times as long as other validations the one after the last step takes.
        """
        self.length = length
        self.elapsed = elapsed
        """Seconds of the training, as `read` last saw them."""
        self.validation_seconds = 0.0
        """How long the last validation took."""
        self._zero = began - elapsed
        self._validated = elapsed
        self._final = final

    @property
    def _reserved(self) -> float:
        """Seconds for the validation after the last step."""
        return self._final * self.validation_seconds

    def now(self) -> float:
        """Seconds of the training at this moment, on this device."""
        return time.monotonic() - self._zero

    def read(self, trainer: Trainer) -> None:
        """Set `elapsed`. All devices get the time of the first: they must agree what is due."""
        self.elapsed = self.now()
        if self.length.timed and trainer.world_size > 1:
            self.elapsed = trainer.strategy.broadcast(self.elapsed)

    def validated(self, trainer: Trainer, began: float) -> None:
        """Note a validation that began at `began` of `elapsed` and has just ended."""
        self.read(trainer)
        self.validation_seconds = self.elapsed - began
        self._validated = self.elapsed

    def progress(self, step: int) -> float:
        """Share 0..1 of the budget used after `step` steps; the last validation has its time."""
        return self.length.progress(step, self.elapsed, self._reserved)

    def validation_due(self) -> bool:
        """Whether a run with hours should be validated now."""
        hours = self.length.settings.hours
        assert hours is not None
        interval = min(LONGEST_INTERVAL, 3600 * hours / VALIDATIONS)
        interval = max(interval, self.validation_seconds / VALIDATION_SHARE)
        return self.elapsed >= self._validated + interval

    def position(self, step: int) -> str:
        """`step` in words, against the budget."""
        if not self.length.timed:
            return f"step {step}/{self.length.settings.steps}"
        percent = 100 * self.length.progress(step, self.elapsed)
        return f"step {step} ({percent:.0f} % of {self.length.describe()})"

    def seconds_left(self, step: int, rate: float) -> float:
        """Seconds until the last step at `rate` steps per second."""
        steps, hours = self.length.settings.steps, self.length.settings.hours
        by_steps = math.inf if steps is None else (steps - step) / rate
        by_hours = math.inf if hours is None else 3600 * hours - self._reserved - self.elapsed
        return max(0.0, min(by_steps, by_hours))


class ClockedSchedule:
    """Fits to the budget what RAVE schedules by steps: phase 1, learning rate, warm-up of beta.

    Only what the schedule leaves open. Called before each step.
    """

    def __init__(self, phase_2_share: float, beta_warmup: BetaWarmupCallback) -> None:
        """`phase_2_share`: 0..1. `beta_warmup`: with RAVE's own length, if that is left open."""
        self._phase_1_share = 1 - phase_2_share
        self._beta_warmup = beta_warmup
        self._longest_warmup = beta_warmup.warmup_len

    def start(self, model: RAVE, schedule: RaveSchedule) -> None:
        """Keep RAVE from starting phase 2 by itself where it has not begun or never will."""
        if schedule.phase_1_steps is None or not schedule.phase_2:
            model.warmup = math.inf

    def left_of_phase_1(self, progress: float) -> float:
        """Share of what is left of the budget at `progress` that phase 1 still gets."""
        return max(0.0, self._phase_1_share - progress) / max(1 - progress, 1e-9)

    def fit(
        self, trainer: Trainer, model: RAVE, schedule: RaveSchedule, progress: float
    ) -> RaveSchedule:
        """Set what the coming step needs; returns the schedule with the lengths known by now."""
        step, through = trainer.global_step, 1.0
        if progress < self._phase_1_share:
            through = progress / self._phase_1_share
        if schedule.beta_warmup_steps is None:
            schedule = self._raise_beta(schedule, step + 1, through)
        if schedule.phase_1_steps is not None:
            return schedule
        # RAVE's scheduler knows steps only: what it did after the last step is overwritten.
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        for group in scheduler.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - (1 - scheduler.end_factor) * through)
        if not schedule.awaits_phase_2 or through < 1 or step == 0:
            return schedule
        # From here on it is as in a run with this number of steps in phase 1.
        model.warmup = scheduler.total_iters = step
        return replace(schedule, phase_1_steps=step)

    def _raise_beta(self, schedule: RaveSchedule, step: int, through: float) -> RaveSchedule:
        """Set the warm-up's length so that its callback gets to the right place in step `step`."""
        place = max(through / BETA_WARMUP, step / self._longest_warmup)
        self._beta_warmup.warmup_len = step if place >= 1 else step / place
        return replace(schedule, beta_warmup_steps=step) if place >= 1 else schedule


def plan_in_words(
    length: RunLength, schedule: RaveSchedule, start: int, phase_2_share: float
) -> str:
    """What a training does from step `start` on."""
    steps, phase_1 = length.settings.steps, schedule.phase_1_steps
    budget = f"steps {start} to {steps}"
    if length.timed:
        budget = f"from step {start} until {length.describe()} are used up in all"
    if not schedule.phase_2:
        return f"{budget}, without the discriminator"
    if phase_1 is None:
        share = 100 * phase_2_share
        return f"{budget}, the last {share:.0f} % of it with the discriminator"
    if steps is not None and phase_1 >= steps:
        return f"{budget}, without the discriminator: phase 1 would end after step {phase_1}"
    return f"{budget}, with the discriminator after step {phase_1}"
