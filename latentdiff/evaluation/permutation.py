"""Permutation tests: how often chance alone would give what was measured.

Shapes: B windows, G groups of windows, M wrong conditions for each window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXACT = 12
"""Differences up to which every pattern of signs is tried."""
DRAWS = 4095
"""Patterns drawn at random for more than that; with the one observed, p >= 1 / 4096."""
CERTAIN = 0.01
"""Probability by chance up to which an effect is taken for real."""
SIGNIFICANT = 0.05
"""Probability by chance above which an effect that could have shown is taken to be missing. Between
CERTAIN and this, no verdict is given: either one would too often be wrong."""

Following = Literal["followed", "weak", "ignored", "not judged"]


def sign_flip(differences: Sequence[float] | Array, seed: int = 0) -> float:
    """Probability of a mean at least as large if every difference might have the other sign.

    The one-sided randomisation test of Fisher 1935, The Design of Experiments, section 21.
    `differences` of independent measurements. Exact for up to EXACT of them, else by random signs;
    never 0, as what was observed is one of the patterns.
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


@dataclass(frozen=True)
class Exchange:
    """Losses with the right condition of one kind against those with exchanged ones."""

    gain: float
    """Mean loss with wrong conditions over that with the right one, - 1."""
    p: float
    """Probability that conditions which do not matter would rank as high as the right ones."""
    least_p: float
    """The smallest probability that so few windows or files can give."""
    identified: float
    """Share of groups whose right condition does better than each of the wrong ones."""
    chance: float
    """That share if conditions did not matter."""
    groups: int
    """G, the independent groups: files for what is constant in a file, else windows."""

    @property
    def grade(self) -> Following:
        """The verdict in a word; none of its limits depends on the size of the gain.

        followed: the right condition can be told from the wrong ones in most groups by the loss.
        weak: only over all groups together. ignored: not even so. not judged: too few groups for
        either.
        """
        if self.p <= CERTAIN:
            return "followed" if self.identified > 0.5 else "weak"
        return "ignored" if self.least_p <= SIGNIFICANT < self.p else "not judged"


def exchange_test(own: Array, wrong: Array, groups: Sequence[int] | NDArray[np.int64]) -> Exchange:
    """Rank the mean loss of each group with its right condition among those with M wrong ones.

    `own` [B], `wrong` [M, B]; `groups` [B] numbers the group of each window. Where conditions do
    not matter, the right one is exchangeable with the wrong ones, and its rank is uniform on 1 to
    M + 1; the sum of the ranks of G groups then has the distribution of G such dice.
    """
    names = np.unique(groups)
    member = np.asarray(groups)[None, :] == names[:, None]
    weights = member / member.sum(axis=1, keepdims=True)
    right, others = weights @ own, wrong @ weights.T
    # Equal losses count against the right condition, so that a model without effect has rank M + 1.
    ranks = 1 + (others <= right).sum(axis=0)
    faces, total = 1 + len(wrong), int(ranks.sum())
    chances = np.ones(1)
    for _ in names:
        chances = np.convolve(chances, np.full(faces, 1 / faces))
    # chances[k]: probability that the ranks sum to G + k.
    return Exchange(
        gain=float(wrong.mean() / own.mean() - 1),
        p=float(chances[: total - len(names) + 1].sum()),
        least_p=float(faces) ** -len(names),
        identified=float((ranks == 1).mean()),
        chance=1 / faces,
        groups=len(names),
    )
