"""Validation of the averaged weights.

The held-out loss of the averaged weights is compared with that of the raw weights and with the loss
on training windows, at the same noise levels.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from latentdiff.training.data import Windows
from latentdiff.training.denoiser_learner import DenoiserLearner
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import Task
from latentdiff.training.validation import Validation, Validator

THIN = 4
"""Everything but the held-out loss is measured on one in four pairs of window and level."""


class Evaluator:
    """Measures a learner on fixed windows of the held-out files and as many training windows."""

    def __init__(
        self,
        task: Task,
        train: Windows,
        held_out: Windows,
        settings: TrainingConfig,
        group: ProcessGroup,
    ) -> None:
        def validator(windows: Windows) -> Validator:
            fixed = windows.spread(settings.validation_windows)
            batch = max(1, settings.batch // settings.accumulate)
            return Validator(fixed, task, settings.validation_levels, batch, thin=THIN, group=group)

        self._held_out = validator(held_out)
        self._train = validator(train)
        self.seconds = 0.0
        """Time taken by all evaluations so far."""

    def evaluate(self, learner: DenoiserLearner, device: torch.device) -> Validation:
        """Validate every average; returns the one with the lowest held-out loss."""
        started = time.monotonic()
        with learner.evaluating() as raw:
            results = [
                self._held_out.measure(average.module, device, raw=None if k else raw)
                for k, average in enumerate(learner.averages)
            ]
            best = min(range(len(results)), key=lambda k: results[k].loss)
            chosen = learner.averages[best]
            training, baseline = self._train.brief(chosen.module, device)
        self.seconds += time.monotonic() - started
        return replace(
            results[best],
            raw=results[0].raw,
            training=training,
            training_baseline=baseline,
            halflife=chosen.halflife,
            averages=[result.loss for result in results] if len(results) > 1 else None,
        )
