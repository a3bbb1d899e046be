"""Whether condition features lie at the same time as the latents they are stored with.

Shapes: B blocks, C latent channels, K condition features, L lags, T frames of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.pairing import AlignedFile, block_scores
from latentdiff.evaluation.permutation import sign_flip

TOLERANCE = 0.1
"""Seconds by which the best lag may differ from 0: codecs delay, and features have long windows."""
FEWEST_FRAMES = 2
"""Frames by which it may differ at any frame rate."""
CHANCE = 0.01
"""Probability by chance below which another lag is better than none."""
SHARE = 0.25
"""Longest lag, as a share of the typical file."""
STEP = 2
"""Frames from one lag to the next, but for those around the best one."""


@dataclass(frozen=True)
class Alignment:
    """How well features predict latents at each lag."""

    lags: list[float]
    """[L], seconds by which the features come too late."""
    explained: list[float]
    """[L], share of the latents' variance that features of that lag predict, cross-validated."""
    p: float
    """Probability that some lag beats no lag by chance."""
    tolerance: float
    """Seconds by which the best lag may differ from 0."""

    @property
    def best(self) -> float:
        """The lag that predicts most, in seconds."""
        return self.lags[int(np.argmax(self.explained))]

    @property
    def now(self) -> float:
        """Share of the variance that is predicted without a lag."""
        return self.explained[int(np.argmin(np.abs(self.lags)))]

    @property
    def holds(self) -> bool:
        """Whether no other lag predicts the latents better than chance explains."""
        far = abs(self.best) > self.tolerance
        return not (far and self.p < CHANCE)


def alignment(files: Sequence[AlignedFile], frame: float, longest: float) -> Alignment:
    """Try lags up to `longest` seconds in both directions; a frame is `frame` seconds long.

    The lags are compared on the same frames of the same files, by blocks. The sign-flip test is
    over what each block gains from the lag that is best in the others: the best of many lags always
    gains where it was chosen. Where nothing is related, blocks that share their fits gain together,
    which makes p a little too small.
    """
    typical = float(np.median([z.shape[-1] for z, _ in files]))
    most = int(min(longest / frame, SHARE * typical))
    blocks = {lag: _scores(files, lag, most) for lag in range(-most, most + 1) if lag % STEP == 0}
    best = max(blocks, key=lambda lag: sum(blocks[lag]))
    for lag in range(max(-most, best - STEP + 1), min(most, best + STEP - 1) + 1):
        blocks[lag] = blocks.get(lag) or _scores(files, lag, most)
    lags = sorted(blocks)
    table = np.array([blocks[lag] for lag in lags])
    return Alignment(
        lags=[round(lag * frame, 4) for lag in lags],
        explained=table.sum(axis=1).tolist(),
        p=sign_flip(_gained(table) - blocks[0]),
        tolerance=max(TOLERANCE, FEWEST_FRAMES * frame),
    )


def _gained(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores [B] of the blocks of a table [L, B], each at the lag that is best in the others."""
    others = table.sum(axis=1, keepdims=True) - table
    gained: NDArray[np.float64] = table[others.argmax(axis=0), np.arange(table.shape[1])]
    return gained


def _scores(files: Sequence[AlignedFile], lag: int, most: int) -> list[float]:
    return block_scores(lagged(files, lag, most))


def lagged(files: Sequence[AlignedFile], lag: int, most: int) -> list[AlignedFile]:
    """Latents with the features `lag` frames later, on frames that every lag up to `most` has."""
    cut = []
    for z, features in files:
        last = z.shape[-1] - most
        if last > most:
            cut.append((z[:, most:last], features[:, most + lag : last + lag]))
    return cut
