"""What the noise of drawn latents does to a loss: closed forms.

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
class Losses:
    """Over some noise levels, of latents of unit variance in every direction."""

    zero: float
    """Of a model that predicts zero."""
    variance: float
    """Of the best that knows variances only: skill 0."""
    floor: float
    """Of one that knows everything but the draw: no model of these latents can do better."""

    @property
    def unlearnable(self) -> float:
        """Share of the loss at skill 0 that stays, whatever is learned."""
        return self.floor / self.variance


def losses(objective: Objective, logsnr: Tensor, unlearnable: Tensor) -> Losses:
    """At levels [B]; `unlearnable` [D] is the share of each direction's variance that is drawn.

    Who knows the mean of the posterior is left with white noise of the draw's variance, of which
    the variance is all there is to know: so the floor is that of a model that knows no more.
    """
    ones = torch.ones_like(unlearnable)
    return Losses(
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
    """Loss of eps for one number put out in place of `channels`: knowing all, knowing nothing.

    Even the mean of D independent values of unit noise leaves 1 - 1/D of their variance, and zero
    leaves all of it; an error of mean square s has a mean magnitude of sqrt(2 s / pi). None for
    kinds of loss that have no such form.
    """
    squares = (1 - 1 / channels, 1.0)
    if kind == "mse":
        return squares
    if kind == "l1":
        low, high = (math.sqrt(2 * s / math.pi) for s in squares)
        return low, high
    return None
