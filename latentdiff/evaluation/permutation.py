"""Permutation tests: how often chance alone would give what was measured.

Shapes: B windows, G groups of windows, M wrong conditions for each window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXACT = 12
"""Groups up to which every pattern of signs is tried."""
DRAWS = 4095
"""Patterns drawn at random for more groups than that; with the one observed, p >= 1 / 4096."""
SIGNIFICANT = 0.05
"""Probability by chance below which an effect is taken for real."""


def sign_flip(differences: Sequence[float] | Array, seed: int = 0) -> float:
    """Probability of a mean at least as large if every difference might have the other sign.

    The one-sided randomisation test of Fisher 1935, The Design of Experiments, section 21.
    `differences` of independent groups. Exact for up to EXACT of them, else by random signs; never
    0, as what was observed is one of the patterns.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=len(values))))
    else:
        drawn = np.random.default_rng(seed).choice((1.0, -1.0), (DRAWS, len(values)))
        signs = np.concatenate([np.ones((1, len(values))), drawn])
    # A hair below, as equal sums differ by rounding.
    observed = values.sum() - 1e-9 * np.abs(values).sum()
    return float((signs @ values >= observed).mean())


def least_p(groups: int) -> float:
    """The smallest probability that `sign_flip` can give for so many groups."""
    return 0.5**groups if groups <= EXACT else 1 / (DRAWS + 1)


@dataclass(frozen=True)
class Following:
    """How losses of windows with their own condition compare with those of wrong ones."""

    gain: float
    """Mean loss with wrong conditions over that with the own one, - 1."""
    p: float
    """Probability of such a gain if conditions did not matter."""
    least_p: float
    """The smallest probability that so few groups can give."""
    identified: float
    """Share of windows whose own condition fits better than each of the wrong ones."""
    chance: float
    """That share if conditions did not matter."""


def following(own: Array, wrong: Array, groups: Sequence[int] | NDArray[np.int64]) -> Following:
    """Compare losses [B] with those of wrong conditions [M, B].

    `groups` [B]: windows of one group may depend on each other, such as those of one file; they
    count as one difference.
    """
    lost = wrong.mean(axis=0) - own
    names = np.unique(groups)
    means = np.array([lost[np.asarray(groups) == name].mean() for name in names])
    return Following(
        gain=float(wrong.mean() / own.mean() - 1),
        p=sign_flip(means),
        least_p=least_p(len(names)),
        identified=float((own < wrong.min(axis=0)).mean()),
        chance=1 / (1 + len(wrong)),
    )
