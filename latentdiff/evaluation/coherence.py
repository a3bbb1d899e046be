"""Coherence horizon: over how many seconds clips are as coherent as real ones.

The yardstick is real clips whose blocks of L seconds were exchanged between clips: within a block
they are as coherent as music is, beyond it not at all. The horizon of a set of clips is the L whose
exchanged real clips have the same coherence, so real clips spliced every L seconds have a horizon
of L by definition. Blocks are exchanged between clips, and taken from a random time: this breaks
the piece *and* the phase of the beat. A shuffle within the clip keeps the piece, and, where L is a
multiple of the beat, the phase as well.

Two kinds of coherence are measured, and a set is coherent for as long as both say so:

- continuity: what it is like now predicts what it is like later. A Gaussian process passes.
- beat: onsets come at regular intervals, from one to the next and over many. It sees events that a
  Gaussian process does not have. Music without a beat has no such horizon.

Shapes: B clips, C latent channels, T frames, S stretches, F features, E frames of an envelope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from latentdiff.evaluation.rhythm import OnsetEnvelopes, autocorrelation

BLOCKS_PER_OCTAVE = 2
SHORTEST_SECONDS = 0.125
"""The shortest blocks: real clips cut into these count as not coherent at all."""
STRETCH_SECONDS = 0.125
"""Features of continuity are means over stretches of this length."""
FEWEST_STRETCHES = 4
"""Of a clip, to tell how long it stays what it is."""
FIRST_BEAT_SECONDS = 0.3
"""The shortest interval of a beat, 200 a minute. Intervals are grouped by octaves from here on."""
EXCHANGES = 4
"""Random exchanges for every block length, averaged."""
DRAWS = 400
"""Bootstrap draws."""
COVERAGE = 0.9
"""Of the intervals."""
DETECTABLE = 3.0
"""Standard errors by which the real clips must be more coherent than exchanged ones, or else there
is nothing to measure by."""
WHOLE = 0.75
"""Share of a clip from which on a horizon counts as all of it: one exchange, near an end, is hardly
to be told from none."""
FEWEST = 8
"""Clips of a set."""

PerClip = Callable[[Tensor], Tensor]
"""Clips [B, ..., T] -> [B, 2]: numerator and denominator of each clip's share in the coherence."""


@dataclass(frozen=True)
class Horizon:
    """Over how many seconds clips are as coherent as real ones."""

    seconds: float
    """From SHORTEST_SECONDS (or shorter) to `longest` (or longer)."""
    low: float
    high: float
    """Ends of an interval of COVERAGE, by bootstrap over the clips of both sets."""
    longest: float
    """Length of the clips in seconds."""

    @property
    def whole(self) -> bool:
        """Whether the clips may well be coherent from end to end."""
        return self.high >= WHOLE * self.longest


@dataclass(frozen=True)
class Coherence:
    """The horizons of a set of clips. None: the real clips show no such coherence, or they are too
    short or fewer than FEWEST."""

    continuity: Horizon | None
    beat: Horizon | None

    @property
    def horizon(self) -> Horizon | None:
        """The shorter of the two."""
        known = [found for found in (self.continuity, self.beat) if found is not None]
        return min(known, key=lambda found: found.seconds, default=None)


def exchanged(clips: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Clips [B, ..., T] whose blocks of `frames` come from random clips and times, [B, ..., T].

    The first block of each clip is cut off at random, so that edges fall anywhere.
    """
    count, length = len(clips), clips.shape[-1]
    blocks = math.ceil(length / frames) + 1
    latest = max(1, length - frames + 1)
    starts = torch.randint(latest, (count, blocks), generator=generator)
    # A permutation of the clips for each block: each is used equally often.
    source = torch.rand(count, blocks, generator=generator).argsort(dim=0)
    shift = torch.randint(frames, (count, 1), generator=generator)
    place = torch.arange(length) + shift
    block, inside = place // frames, place % frames
    # A block longer than the clip that it comes from goes on at its beginning.
    time = (starts.gather(1, block) + inside) % length
    flat = clips.transpose(1, -1) if clips.ndim == 3 else clips
    taken = flat[source.gather(1, block), time]
    return taken.transpose(1, -1) if clips.ndim == 3 else taken


class Yardstick:
    """Real clips, intact and cut to pieces, by whose coherence that of others is measured."""

    def __init__(
        self, per_clip: PerClip, real: Tensor, rate: float, generator: torch.Generator
    ) -> None:
        """`real` [B, ..., T] at `rate` frames a second."""
        self._per_clip, self._generator = per_clip, generator
        self._length, self._rate = real.shape[-1], rate
        self._sizes = _block_sizes(self._length, rate)
        self._usable = len(real) >= FEWEST and len(self._sizes) > 1
        if not self._usable:
            return
        curve = torch.stack([*(self._cut(real, size) for size in self._sizes), per_clip(real)])
        # The first draw is the set itself.
        draw = _draws(len(real), generator)
        coherence = torch.stack([_ratio(row, draw) for row in curve], dim=-1)
        self._coherence = coherence - coherence[:, :1]
        spread = self._coherence[1:, -1].std()
        self._usable = bool(self._coherence[0, -1] >= DETECTABLE * spread)

    def horizon(self, clips: Tensor) -> Horizon | None:
        """That of clips [B, ..., T], cut to the length of the real ones. None: see `Coherence`.

        Raises ValueError for shorter clips.
        """
        if clips.shape[-1] < self._length:
            raise ValueError(f"clips of {clips.shape[-1]} frames; the real ones: {self._length}")
        if not self._usable or len(clips) < FEWEST:
            return None
        clips = clips[..., : self._length]
        shares = _Shares(self._per_clip(clips), self._cut(clips, self._sizes[0]))
        coherence = shares.coherence(_draws(len(clips), self._generator))
        longest = self._length / self._rate
        seconds = torch.tensor([*(size / self._rate for size in self._sizes), longest])
        found = _interpolated(coherence, self._coherence, seconds)
        tail = (1 - COVERAGE) / 2
        low, high = found[1:].quantile(torch.tensor([tail, 1 - tail], dtype=found.dtype)).tolist()
        return Horizon(float(found[0]), low, high, longest)

    def _cut(self, clips: Tensor, frames: int) -> Tensor:
        times = [
            self._per_clip(exchanged(clips, frames, self._generator)) for _ in range(EXCHANGES)
        ]
        return torch.stack(times).mean(dim=0)


class Continuity:
    """How long latents stay what they are.

    The mean of every latent over a stretch, and the logarithm of its deviation, are features. Their
    coherence is the autocorrelation around the mean of all clips, over lags of all octaves up to
    half a clip, weighted by how persistent each feature is in the real clips.
    """

    def __init__(self, real: Tensor, rate: float, generator: torch.Generator) -> None:
        """`real` [B, C, T] latents at `rate` frames a second."""
        self._per_stretch = max(2, round(STRETCH_SECONDS * rate))
        self._spread = real.std(dim=(0, 2), keepdim=True).clamp(min=1e-6)
        self._yardstick: Yardstick | None = None
        if real.shape[-1] < FEWEST_STRETCHES * self._per_stretch:
            return
        stretches = self._stretches(real)
        weights = _persistence(stretches)

        def per_clip(clips: Tensor) -> Tensor:
            return torch.einsum("bfk,f->bk", _products(clips), weights)

        self._yardstick = Yardstick(per_clip, stretches, rate / self._per_stretch, generator)

    def horizon(self, latents: Tensor) -> Horizon | None:
        """That of latents [B, C, T], as long as the real ones or longer."""
        if self._yardstick is None:
            return None
        return self._yardstick.horizon(self._stretches(latents))

    def _stretches(self, latents: Tensor) -> Tensor:
        return _stretches(latents / self._spread, self._per_stretch)


class Beat:
    """How long onsets keep time.

    Coherence is the highest autocorrelation of the envelope in each octave of lags from
    FIRST_BEAT_SECONDS to half a clip, averaged.
    """

    def __init__(self, real: OnsetEnvelopes, generator: torch.Generator) -> None:
        def per_clip(envelopes: Tensor) -> Tensor:
            highest = _octave_maxima(autocorrelation(envelopes), real.rate)
            return torch.stack([highest, torch.ones_like(highest)], dim=1)

        self._rate = real.rate
        # An octave of lags up to half a clip.
        long_enough = real.values.shape[-1] >= 4 * FIRST_BEAT_SECONDS * real.rate + 1
        self._yardstick = (
            Yardstick(per_clip, real.values, real.rate, generator) if long_enough else None
        )

    def horizon(self, envelopes: OnsetEnvelopes) -> Horizon | None:
        """That of other envelopes. Raises ValueError if their rate is another."""
        if envelopes.rate != self._rate:
            raise ValueError(f"envelopes at {envelopes.rate:g} and {self._rate:g} frames a second")
        return None if self._yardstick is None else self._yardstick.horizon(envelopes.values)


def _stretches(latents: Tensor, frames: int) -> Tensor:
    """Mean and log deviation of stretches of latents [B, C, T]: [B, 2 C, S]."""
    whole = latents.shape[-1] // frames * frames
    parts = latents[..., :whole].double().unflatten(-1, (-1, frames))
    deviation = (parts.var(dim=-1, correction=0) + 1e-2).log() / 2
    return torch.cat([parts.mean(dim=-1), deviation], dim=1)


def _lags(length: int) -> list[int]:
    """Stretches apart: half octaves from 1 to half the clip."""
    octaves = math.log2(max(1, length // 2))
    return sorted({round(2 ** (k / 2)) for k in range(math.floor(2 * octaves) + 1)})


def _products(stretches: Tensor) -> Tensor:
    """[B, F, S] -> [B, F, 2]: autocovariance averaged over lags, and variance, of each clip.

    Both without the mean over all clips: what each clip shares with the others on average is taken
    off as the product of their means, which has no bias where squares of means would have one.
    """
    count = len(stretches)
    means = stretches.mean(dim=-1)
    shared = means * (means.sum(dim=0) - means) / (count - 1)
    lags = _lags(stretches.shape[-1])
    later = [(stretches[..., lag:] * stretches[..., :-lag]).mean(dim=-1) for lag in lags]
    # Equal weights for the octaves: with more on long lags, which few independent pairs of
    # stretches measure, horizons of real clips scatter down to a quarter of their length.
    covariance = torch.stack(later).mean(dim=0) - shared
    variance = stretches.square().mean(dim=-1) - shared
    return torch.stack([covariance, variance], dim=-1)


def _persistence(stretches: Tensor) -> Tensor:
    """Weights [F] of features: their autocorrelation in these clips over their variance."""
    covariance, variance = _products(stretches).mean(dim=0).unbind(-1)
    variance = variance.clamp(min=1e-9)
    return (covariance / variance).clamp(min=0) / variance


def _octave_maxima(correlation: Tensor, rate: float) -> Tensor:
    """Mean over octaves of lags of the highest autocorrelation [B, L] in each: [B]."""
    first, last = round(FIRST_BEAT_SECONDS * rate), correlation.shape[-1]
    edges = [first]
    while edges[-1] * 2 <= last:
        edges.append(edges[-1] * 2)
    edges[-1] = last if len(edges) > 1 else edges[-1]
    best = [correlation[:, start:stop].amax(dim=-1) for start, stop in pairwise(edges)]
    return torch.stack(best).mean(dim=0)


@dataclass(frozen=True)
class _Shares:
    """Numerators and denominators by clip, before and after its own clips were cut to pieces."""

    intact: Tensor
    """[B, 2]."""
    cut: Tensor
    """[B, 2]: with blocks of SHORTEST_SECONDS exchanged. What is left is chance."""

    def coherence(self, draw: Tensor) -> Tensor:
        """[K, B] clips -> [K]."""
        return _ratio(self.intact, draw) - _ratio(self.cut, draw)


def _ratio(shares: Tensor, draw: Tensor) -> Tensor:
    numerator, denominator = shares[draw].sum(dim=1).unbind(-1)
    return numerator / denominator.clamp(min=1e-12)


def _block_sizes(length: int, rate: float) -> list[int]:
    """Block lengths in frames, ascending, below the length of a clip."""
    first = max(1.0, SHORTEST_SECONDS * rate)
    count = math.ceil(BLOCKS_PER_OCTAVE * math.log2(length / first))
    sizes = {round(first * 2 ** (k / BLOCKS_PER_OCTAVE)) for k in range(count)}
    return sorted(size for size in sizes if size < length)


def _draws(count: int, generator: torch.Generator) -> Tensor:
    """[1 + DRAWS, count]: every index once, then bootstrap draws."""
    random = torch.randint(count, (DRAWS, count), generator=generator)
    return torch.cat([torch.arange(count)[None], random])


def _interpolated(values: Tensor, curves: Tensor, seconds: Tensor) -> Tensor:
    """Where rising curves [K, L] over `seconds` [L] reach values [K], in octaves: [K]."""
    curves = curves.cummax(dim=-1).values
    above = torch.searchsorted(curves, values[:, None]).clamp(1, len(seconds) - 1)
    low, high = curves.gather(1, above - 1), curves.gather(1, above)
    share = ((values[:, None] - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    octaves = seconds.log2().to(values.dtype)
    return torch.exp2(torch.lerp(octaves[above - 1], octaves[above], share))[:, 0]
