"""Closed forms of numbers in the notebook, from a config and a few arguments.

`OF_PROJECT` and `ARITHMETIC` hold those that the files of configs/notebook may name.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from latentdiff.diffusion import baseline, noise
from latentdiff.model.project import Project
from latentdiff.notebook.entry import Formula


def evaluate(formula: Formula, project: Project) -> float:
    """Evaluate a formula. Raises KeyError for an unknown name, TypeError for wrong arguments."""
    if formula.of in OF_PROJECT:
        return OF_PROJECT[formula.of](project, **formula.given)
    return ARITHMETIC[formula.of](**formula.given)


def loss(project: Project, knows: str = "variance", std: float = 1.0) -> float:
    """Mean loss over the schedule of a model that learned nothing, for white latents of deviation
    `std`. `knows`: zero = it predicts zero; variance = the best that knows only the variance."""
    variance = torch.tensor([std**2], dtype=torch.float64)
    task = project.recipe.make_task(variance)
    known = {"zero": baseline.zero, "variance": baseline.variance_only}[knows]
    return float(known(task.objective, task.schedule.visited(), variance).mean())


def gain(project: Project) -> float:
    """1 / sqrt(abar_T): how much the chain amplifies the noise that the model leaves."""
    return noise.schedule_of(project.diffusion).gain


def identity(steps: int, std: float = 1.0) -> float:
    """Mean |x_{n-1} - x_n| on a straight path of `steps` levels from latents to noise.

    The L1 loss of a model that returns its input: x = (1 - t) z_0 + t eps, so neighbours differ by
    (eps - z_0) / (steps - 1). `std`: deviation of z_0.
    """
    return math.sqrt(2 / math.pi * (1 + std**2)) / (steps - 1)


def norm(values: int) -> float:
    """Euclidean norm of `values` values of white noise."""
    return math.sqrt(values)


def largest(values: int) -> float:
    """Expected largest magnitude among `values` values of white noise."""
    # E[max] is the integral of P(max > x) = 1 - P(|N(0, 1)| < x)^values.
    x = torch.linspace(0, 10, 20001, dtype=torch.float64)
    below = torch.erf(x / math.sqrt(2))
    return float(torch.trapezoid(1 - below**values, x))


def outside(limit: float) -> float:
    """Share of white noise whose magnitude exceeds `limit`."""
    return math.erfc(limit / math.sqrt(2))


def visited(draws: int, levels: int) -> float:
    """Expected share of `levels` that are drawn at least once in `draws` independent draws."""
    return 1 - (1 - 1 / levels) ** draws


def ratio(of: float, to: float) -> float:
    """One number over another."""
    return of / to


OF_PROJECT: dict[str, Callable[..., float]] = {"loss": loss, "gain": gain}
"""Formulas of the settings that a case trains with."""

ARITHMETIC: dict[str, Callable[..., float]] = {
    form.__name__: form for form in (identity, norm, largest, outside, visited, ratio)
}
"""Formulas of their arguments alone."""
