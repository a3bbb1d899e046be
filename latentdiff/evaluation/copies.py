"""Whether clips are copies of training recordings, as against alike as real music is to itself.

Music repeats itself, so a resemblance (see `evaluation.resemblance`) means nothing alone. What
counts is its *excess*: a copy of a training window resembles it more than all other real music
does. How large an excess gets by chance is measured on real clips: clips of the training files,
searched for everywhere but where they were cut from, and held-out clips.

Shapes: B clips, C latent directions, F frames of a file, T frames of a clip, W frames of a window.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentdiff.evaluation import windows
from latentdiff.evaluation.resemblance import Match, Place, nearest, windows_at

SHORTEST_SECONDS = 2.0
"""Shortest window, if clips are as long: shorter stretches resemble each other by chance."""
LONGEST_SECONDS = 5.0
"""Longest window; between the two, half a clip, so that a clip copied in part is found."""
CLIP_SECONDS = 10.0
"""Longer clips are compared in pieces of this length, since training files may be shorter."""
REAL_CLIPS = 96
"""Clips of the training files that show how far music resembles itself."""
FEWEST = 16
"""Real clips below which no p-value is given: their tail would be a guess."""
TAIL = 0.2
"""Share of the real clips that the tail of their distribution is fitted to."""
SIGNIFICANT = 0.001
"""p-value below which clips are called copies."""
SAME_RECORDING = 0.95
"""Resemblance of a held-out clip above which it is the training recording itself: unlike a copy
made by a model, it has no noise of its own."""
_ALIKE = 1e-3
"""1 - resemblance below which windows count as equal."""


@dataclass(frozen=True)
class Closeness:
    """How close a clip comes to one training window, by the window of the clip with most excess."""

    excess: float
    """log((1 - b) / (1 - a)): a is the resemblance to the training window, b that of the training
    window to any other. Above 0: closer than any other music is."""
    resemblance: float
    """0..1, to that training window."""
    place: Place | None
    """Where that training window begins; None if no file is as long as a window."""
    start: int
    """First frame of the window within the clip."""


@dataclass(frozen=True)
class CopiedClip:
    """A clip that copies a training recording."""

    clip: int
    """Its index."""
    closeness: Closeness
    p: float
    """Share of real clips that come this close to other recordings, by the fitted tail."""


@dataclass(frozen=True)
class Copies:
    """Whether a set of clips holds copies of training recordings; see `find_copies`."""

    window_frames: int
    """W."""
    clips: list[Closeness]
    """[B]."""
    real: list[Closeness]
    """Clips of the training files, each compared with everything but itself."""
    held_out: list[Closeness]
    """Held-out clips, without those that are training recordings themselves."""
    leaked: list[int]
    """Indices of held-out clips that are training recordings themselves."""
    p: float | None
    """p-value of the whole set: the chance of real clips to come this close to other recordings.
    None: too few real clips."""
    share: float
    """Estimated share 0..1 of copies among the clips."""
    copied: list[CopiedClip]
    """The clips that are copies by themselves; a set can hold further ones, see `share`."""

    @property
    def found(self) -> bool:
        """Whether there are copies."""
        return self.p is not None and self.p < SIGNIFICANT

    @property
    def ratio(self) -> float:
        """How much closer than real clips the clips are, as medians. 1: as new; near 0: copies."""
        real, ours = ([one.excess for one in clips] for clips in (self.real, self.clips))
        return math.exp(statistics.median(real or [0.0]) - statistics.median(ours))


def window_frames(frames: int, frame_rate: float) -> int:
    """Frames of the windows that clips of `frames` at `frame_rate` (Hz) are compared by."""
    shortest, longest = (round(s * frame_rate) for s in (SHORTEST_SECONDS, LONGEST_SECONDS))
    return min(frames, max(shortest, min(frames // 2, longest)))


def find_copies(
    clips: Tensor, held_out: Tensor | None, files: Sequence[Tensor], frame_rate: float
) -> Copies:
    """Search clips [B, C, T] for copies of the training files, each [C, F], at `frame_rate` (Hz).

    Held-out clips are [B', C, T] for any B'. All are final latents of deviation about 1. `files`
    may read a file when it is asked for: each is needed about three times, one at a time.

    p-values are the larger of two: against the clips of the training files and, if there are
    FEWEST, the held-out clips. Held-out clips that are copies themselves (a leak) are left out.
    """
    lengths = [file.shape[-1] for file in files]
    frames = min(round(CLIP_SECONDS * frame_rate), clips.shape[-1])
    if held_out is not None:
        frames = min(frames, held_out.shape[-1])
    frames = _shortened(lengths, frames, round(SHORTEST_SECONDS * frame_rate))
    width = window_frames(frames, frame_rate)
    ours = _of_clips(clips, frames, files, width)
    real = _of_training(_spread_places(lengths, frames), frames, files, width)
    others = [] if held_out is None else _of_clips(held_out, frames, files, width)
    leaked = {
        copy.clip
        for copy in _copied(others, _nulls(real))
        if copy.closeness.resemblance > SAME_RECORDING
    }
    heard = [one for k, one in enumerate(others) if k not in leaked]
    nulls, excesses = _nulls(real, heard), [one.excess for one in ours]
    copied = _copied(ours, nulls)
    return Copies(
        window_frames=width,
        clips=ours,
        real=real,
        held_out=heard,
        leaked=sorted(leaked),
        p=max((_p_of_set(excesses, null) for null in nulls), default=None),
        share=max(
            min((_share_beyond(excesses, null) for null in nulls), default=0.0),
            len(copied) / len(ours),
        ),
        copied=copied,
    )


def closeness(
    clips: Tensor,
    files: Sequence[Tensor],
    width: int,
    own: Sequence[Place] | None = None,
) -> list[Closeness]:
    """How close each of clips [B, C, T] comes to a window of `width` frames of the files [C, F].

    `own`: where the clips were cut from, which does not count as a match.
    """
    starts = _starts(clips.shape[-1], width)
    queries = torch.cat([clips[..., s : s + width] for s in starts])
    cut_from = [
        [] if own is None else [Place(own[k].file, own[k].start + s)]
        for s in starts
        for k in range(len(clips))
    ]
    first = nearest(queries, files, cut_from)
    matched = windows_at([match.place for match in first], files, queries)
    # Resemblance of the matched window to all music but itself and, again, the clip's own place.
    excluded = [
        [*([match.place] if match.place else []), *mine]
        for match, mine in zip(first, cut_from, strict=True)
    ]
    second = nearest(matched, files, excluded)
    found = [
        Closeness(_strength(a) - _strength(b), a.resemblance, a.place, starts[k // len(clips)])
        for k, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    return [max(found[k :: len(clips)], key=lambda one: one.excess) for k in range(len(clips))]


def _strength(match: Match) -> float:
    """-log(1 - resemblance). The squared correlation of noise is beta distributed, which makes this
    exponential in its tail."""
    return -math.log(max(1 - match.resemblance, _ALIKE))


def _starts(frames: int, width: int) -> list[int]:
    """First frames of the windows of a clip: evenly spread, and overlapping by half at least."""
    count = math.ceil(2 * (frames - width) / width) + 1
    return windows.spread(frames - width + 1, count)


def _shortened(lengths: Sequence[int], frames: int, shortest: int) -> int:
    """`frames`, or fewer if files of these lengths would give less than FEWEST clips of them."""
    while len(windows.cut(lengths, frames)) < FEWEST and frames > shortest:
        frames = max(shortest, frames * 3 // 4)
    return frames


def _of_clips(clips: Tensor, frames: int, files: Sequence[Tensor], width: int) -> list[Closeness]:
    """Closeness [B] of clips [B, C, T], compared in pieces of `frames`: that of the closest."""
    pieces = clips.unfold(-1, frames, frames).transpose(1, 2)  # [B, pieces, C, frames]
    found = closeness(pieces.flatten(0, 1), files, width)
    count = pieces.shape[1]
    closest = []
    for b in range(len(clips)):
        mine = found[b * count : (b + 1) * count]
        k = max(range(count), key=lambda k: mine[k].excess)
        closest.append(replace(mine[k], start=mine[k].start + k * frames))
    return closest


def _spread_places(lengths: Sequence[int], frames: int) -> list[Place]:
    """At most REAL_CLIPS places of clips of `frames`, evenly spread over files of these lengths."""
    cut = [Place(*place) for place in windows.cut(lengths, frames)]
    return [cut[k] for k in windows.spread(len(cut), REAL_CLIPS)] if cut else []


def _of_training(
    places: Sequence[Place], frames: int, files: Sequence[Tensor], width: int
) -> list[Closeness]:
    """Closeness of the clips at these places to everything but themselves."""
    if not places:
        return []
    cut = torch.stack([files[p.file][:, p.start : p.start + frames] for p in places])
    return closeness(cut, files, width, places)


def _nulls(*sets: Sequence[Closeness]) -> list[list[float]]:
    """The excesses of the sets of real clips that are large enough."""
    return [[one.excess for one in clips] for clips in sets if len(clips) >= FEWEST]


def _copied(clips: Sequence[Closeness], nulls: Sequence[Sequence[float]]) -> list[CopiedClip]:
    """The clips that are copies by all `nulls`: alone, or as part of a set that is beyond chance.

    Of such a set, those closer than any real clip.
    """
    if not nulls or not clips:
        return []
    excesses = [clip.excess for clip in clips]
    as_a_set = all(_p_of_count(excesses, null) < SIGNIFICANT for null in nulls)
    farthest = max(max(null) for null in nulls)
    found = []
    for index, clip in enumerate(clips):
        p = max(_p_of_clip(clip.excess, null) for null in nulls)
        # Bonferroni's correction: any of the clips could have been the closest.
        if p * len(clips) < SIGNIFICANT or (as_a_set and clip.excess > farthest):
            found.append(CopiedClip(index, clip, p))
    return found


def _p_of_clip(excess: float, null: Sequence[float]) -> float:
    """The chance that a real clip exceeds `excess`.

    Beyond the largest TAIL of `null`: predicted by an exponential tail of unknown scale,
    (1 + x / sum)^-k for k exceedances (Pareto; Geisser 1984, predictive distribution of an
    exponential sample). Heavier than the exponential fitted to so few values.
    """
    ordered = sorted(null)
    count = max(1, round(TAIL * len(ordered)))
    threshold = ordered[-count - 1]
    beyond = excess - threshold
    if beyond <= 0:
        return (1 + sum(value >= excess for value in ordered)) / (1 + len(ordered))
    total = sum(value - threshold for value in ordered[-count:])
    tail = (1 + beyond / max(total, 1e-12)) ** -count
    return count / len(ordered) * float(tail)


def _p_of_set(excesses: Sequence[float], null: Sequence[float]) -> float:
    """The chance that as many real clips come as close to other recordings as these clips do.

    Two tests, corrected by Bonferroni for both: the closest clip alone, and the number of clips
    beyond the TAIL of `null`.
    """
    closest = len(excesses) * min(_p_of_clip(excess, null) for excess in excesses)
    return min(1.0, 2 * min(closest, _p_of_count(excesses, null)))


def _p_of_count(excesses: Sequence[float], null: Sequence[float]) -> float:
    """Fisher's exact test: would as many of the clips exceed the largest TAIL of `null`, if they
    were of one distribution?"""
    from scipy.stats import hypergeom

    threshold = _threshold(null)
    ours = sum(excess > threshold for excess in excesses)
    theirs = sum(value > threshold for value in null)
    everything = len(excesses) + len(null)
    return float(hypergeom.sf(ours - 1, everything, ours + theirs, len(excesses)))


def _share_beyond(excesses: Sequence[float], null: Sequence[float]) -> float:
    """Share of clips beyond the TAIL of `null`, less the share that real clips have there."""
    threshold = _threshold(null)
    ours = sum(excess > threshold for excess in excesses) / len(excesses)
    theirs = sum(value > threshold for value in null) / len(null)
    return max(0.0, (ours - theirs) / (1 - theirs))


def _threshold(null: Sequence[float]) -> float:
    return sorted(null)[-max(1, round(TAIL * len(null))) - 1]
