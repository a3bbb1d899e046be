"""Wandering: do clips move through too many pieces, or too few? And does a long sample stay in one?

A model that cannot keep a piece has too much deviation within its clips and too little between
them; one that repeats itself has too little between them at the right deviation within.

Shapes: B clips, C latent channels, T frames, S stretches, F features, P pairs of stretches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRETCH_SECONDS = 1.0
"""Latents are averaged over stretches of this length: notes average out, pieces do not."""
DRIFT_SECONDS = 20.0
"""Length of the first and the last stretch of a long sample."""
DRAWS = 400
"""Bootstrap draws."""
COVERAGE = 0.9
"""Of the intervals."""


@dataclass(frozen=True)
class RelativeDeviation:
    """A deviation relative to that of real clips: 1 is right."""

    ratio: float
    low: float
    high: float
    """Ends of an interval of COVERAGE, by bootstrap over the clips of both sets."""

    @property
    def too_large(self) -> bool:
        """Whether the whole interval is above 1."""
        return self.low > 1

    @property
    def too_small(self) -> bool:
        """Whether the whole interval is below 1."""
        return self.high < 1


@dataclass(frozen=True)
class Wandering:
    """How far clips move, and how far they are from each other."""

    within: RelativeDeviation
    """Of the stretches of a clip, from its mean."""
    between: RelativeDeviation
    """Of the means of clips, from the mean of all, without the part that is deviation within."""

    @property
    def found(self) -> bool:
        """Whether the clips move too far *and* are too much alike: they pass through pieces."""
        return self.within.too_large and self.between.too_small


@dataclass(frozen=True)
class Drift:
    """How far the end of a long sample is from its beginning."""

    distance: float
    """Of the style of the last stretch from that of the first, in deviations between pieces."""
    within_pieces: tuple[float, ...]
    """Distances of two stretches of the same real piece, as far apart as it allows; ascending."""
    between_pieces: tuple[float, ...]
    """Distances of stretches of different real pieces; ascending."""

    @property
    def p_value(self) -> float:
        """Two-sided: how often stretches of one real piece are at least as unusually near or far.
        With P pairs it cannot fall below 2 / (P + 1)."""
        others = self.within_pieces
        above = 1 + sum(other >= self.distance for other in others)
        below = 1 + sum(other <= self.distance for other in others)
        return min(1.0, 2 * min(above, below) / (len(others) + 1))

    @property
    def like_another_piece(self) -> float:
        """Share of pairs of different pieces that are nearer than the two ends of the sample. Near
        0: it stayed; 0.5: it ends as far from its beginning as another piece would be."""
        nearer = sum(other < self.distance for other in self.between_pieces)
        return nearer / max(1, len(self.between_pieces))


def wandering(samples: Tensor, real: Tensor, rate: float, generator: torch.Generator) -> Wandering:
    """Deviations of latents [B, C, T] relative to those of `real` [B', C, T'], `rate` frames a
    second.

    Deviations within grow with the length of clips, so the longer clips are cut. Each latent counts
    by its deviation in the real clips. Raises ValueError for fewer than 2 clips or 2 stretches.
    """
    frames = max(1, round(STRETCH_SECONDS * rate))
    length = min(samples.shape[-1], real.shape[-1])
    if min(len(samples), len(real)) < 2 or length < 2 * frames:
        raise ValueError("wandering needs at least 2 clips of 2 stretches each")
    spread = real.double().std(dim=(0, 2), keepdim=True).clamp(min=1e-6)
    sets = [_stretch_means(x[..., :length] / spread, frames) for x in (samples, real)]
    deviations = [_deviations(x, _draws(len(x), generator)) for x in sets]
    ratios = deviations[0] / deviations[1].clamp(min=1e-9)
    within, between = (_relative(ratio) for ratio in ratios)
    return Wandering(within, between)


def _stretch_means(latents: Tensor, frames: int) -> Tensor:
    """[B, C, T] -> [B, C, S]; the rest at the end is left out."""
    whole = latents.shape[-1] // frames * frames
    means: Tensor = latents[..., :whole].unflatten(-1, (-1, frames)).mean(dim=-1)
    return means


def _draws(count: int, generator: torch.Generator) -> Tensor:
    """Weights of clips [1 + DRAWS, B]: all alike once, then bootstrap draws."""
    chosen = torch.randint(count, (DRAWS, count), generator=generator)
    weights = torch.zeros(DRAWS, count, dtype=torch.float64)
    weights.scatter_add_(1, chosen, torch.ones(DRAWS, count, dtype=torch.float64))
    return torch.cat([torch.ones(1, count, dtype=torch.float64), weights]) / count


def _deviations(stretches: Tensor, weights: Tensor) -> Tensor:
    """Deviations within and between clips [B, C, S], for weights [K, B] of the clips: [2, K].

    Analysis of variance in one direction (Searle, Casella and McCulloch 1992, Variance Components,
    section 3.6). A bootstrap draw holds some clips twice; the factor B / (B - 1) that makes the
    variance of the set itself unbiased is used for all draws.
    """
    count, size = len(stretches), stretches.shape[-1]
    means = stretches.mean(dim=-1)
    inside = weights @ stretches.var(dim=-1).sum(dim=1)
    centres = weights @ means
    outside = weights @ means.square().sum(dim=1) - centres.square().sum(dim=1)
    outside = outside * count / (count - 1) - inside / size
    return torch.stack([inside, outside.clamp(min=0)]).sqrt()


def _relative(ratios: Tensor) -> RelativeDeviation:
    tail = (1 - COVERAGE) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=ratios.dtype)
    low, high = ratios[1:].quantile(ends).tolist()
    return RelativeDeviation(float(ratios[0]), low, high)


def drift(sample: Tensor, pieces: Sequence[Tensor], rate: float) -> Drift | None:
    """Compare both ends of a long sample [C, T] with stretches of real `pieces` [C, T_i] each.

    Stretches are DRIFT_SECONDS long, or half of the sample if that is shorter. None if no piece
    holds two of them, or only one piece holds any.
    """
    frames = min(round(DRIFT_SECONDS * rate), sample.shape[-1] // 2)
    parts = [_styles(piece, frames) for piece in pieces if piece.shape[-1] >= frames]
    if len(parts) < 2 or all(len(part) < 2 for part in parts):
        return None
    # Pieces count alike, however long they are.
    centres = torch.stack([part.mean(dim=0) for part in parts])
    scale = centres.std(dim=0).clamp(min=1e-6)
    ends = _styles(sample, frames)[[0, -1]] / scale
    parts = [part / scale for part in parts]
    width = math.sqrt(parts[0].shape[1])
    within = [_far_pairs(part) / width for part in parts if len(part) > 1]
    between = [
        torch.cdist(part, other).flatten() / width
        for index, part in enumerate(parts)
        for other in parts[index + 1 :]
    ]
    return Drift(
        float((ends[0] - ends[1]).norm() / width),
        tuple(torch.cat(within).sort().values.tolist()),
        tuple(torch.cat(between).sort().values.tolist()),
    )


def _styles(latents: Tensor, frames: int) -> Tensor:
    """Mean and log deviation of stretches edge to edge, and of the last: [S, 2 C], float64."""
    length = latents.shape[-1]
    starts = sorted({*range(0, length - frames + 1, frames), length - frames})
    if len(starts) > 1 and starts[-1] - starts[-2] < frames:
        del starts[-2]
    parts = torch.stack([latents[:, start : start + frames] for start in starts]).double()
    deviation = parts.std(dim=-1, correction=0).clamp(min=1e-6).log()
    return torch.cat([parts.mean(dim=-1), deviation], dim=1)


def _far_pairs(styles: Tensor) -> Tensor:
    """Distances of pairs at least half of the piece apart, [P]: like the ends of a sample."""
    apart = torch.cdist(styles, styles)
    return torch.cat(
        [apart.diagonal(offset) for offset in range(max(1, len(styles) // 2), len(styles))]
    )
