"""The loss that remains because latents were drawn from their posterior: closed forms.

Shapes: B noise levels, D directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion import baseline
from latentdiff.diffusion.loss import Objective
from latentdiff.diffusion.settings import LossKind


@dataclass(frozen=True)
class LossBounds:
    """Mean losses over some noise levels, for latents of unit variance in every direction."""

    zero: float
    """Loss of a model that predicts zero."""
    variance: float
    """Loss of the best model that knows only the variances: skill 0."""
    floor: float
    """Loss of a model that knows everything but the random draw: a lower bound for all models."""

    @property
    def unlearnable(self) -> float:
        """Share of the loss at skill 0 that no amount of learning removes."""
        return self.floor / self.variance


def losses(objective: Objective, logsnr: Tensor, unlearnable: Tensor) -> LossBounds:
    """Loss bounds at log-SNR [B]; `unlearnable` [D]: share of each variance that is random draw.

    A model that knows the posterior's mean is left with white noise of the posterior's variance,
    and variance is all one can know of white noise: hence `variance_only` for the floor.
    """
    ones = torch.ones_like(unlearnable)
    return LossBounds(
        *(
            float(of(objective, logsnr.to(variance), variance).mean())
            for of, variance in (
                (baseline.zero, ones),
                (baseline.variance_only, ones),
                (baseline.variance_only, unlearnable),
            )
        )
    )


def one_output(kind: LossKind, channels: int) -> tuple[float, float] | None:
    """Loss of predicting eps with one number for all `channels`: (the best number, zero).

    The mean of D independent values of unit noise leaves 1 - 1/D of their variance, zero all of
    it; a normal error of mean square s has a mean magnitude of sqrt(2 s / pi). None for kinds of
    loss without such a closed form.
    """
    squares = (1 - 1 / channels, 1.0)
    if kind == "mse":
        return squares
    if kind == "l1":
        low, high = (math.sqrt(2 * s / math.pi) for s in squares)
        return low, high
    return None
