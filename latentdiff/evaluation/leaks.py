"""Held-out recordings that are also among the training files, under whatever name.

By content: equal latents, which any lossless copy gives. By sound: windows of a held-out file that
resemble windows of one training file, all at one offset in time. Measured on copies of six
recordings: as mp3 or at half the level they resemble the original by 0.99 and more, cut by a
fraction of a latent frame by 0.9, cut by half a frame by 0.65 (not found); pieces of one style,
tempo and drum kit by up to 0.72.

Shapes: C latent directions, T latent frames, W frames of a window.
"""

from __future__ import annotations

import logging
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.evaluation import windows
from latentdiff.evaluation.resemblance import Match, nearest
from latentdiff.latents.store import Entry, LatentStore

log = logging.getLogger(__name__)

WINDOW_SECONDS = (5.0, 3.0, 2.0)
"""Lengths of the windows that are compared: the first that fits into a file. Files that are shorter
still are compared by content alone."""
FILES = 32
"""Held-out files that are searched for by sound; of more, evenly spread ones."""
WINDOWS = 4
"""Windows of each."""
BUDGET = 100_000_000
"""Windows times frames of the training files; of a larger corpus, fewer held-out files are searched
for. Takes about half a minute on one core."""
SAME = 0.8
"""Median resemblance above which windows are of the same recording."""
SAME_ALONE = 0.9
"""The same for a file of a single window, which has no offset to agree on."""
_NAMED = 5
"""Pairs that a message names."""


@dataclass(frozen=True)
class Leak:
    """A held-out recording that is also in the training files."""

    held_out: str
    """Its key."""
    training: str
    """Key of the training file that holds it."""
    by: Literal["content", "sound"]
    """content: equal to the last bit. sound: the same recording in another format, level or cut."""
    resemblance: float
    """Median over its windows, 0..1."""


def find_leaks(
    store: LatentStore, whiten: Callable[[Tensor], Tensor], frame_rate: float
) -> list[Leak]:
    """The held-out files of a store that are also training files, each with one of these.

    `whiten` makes final latents [C, T] of raw ones [D, T], `frame_rate` is in Hz. All held-out
    files are compared by content, FILES by sound. The two ends of one file are no leak.
    """
    train, held_out = store.of("train"), store.of("validation")
    same = {store.digest(entry): entry.key for entry in train} if held_out else {}
    found, rest = [], []
    for entry in held_out:
        if (key := same.get(store.digest(entry))) is not None:
            found.append(Leak(entry.key, key, "content", 1.0))
        else:
            rest.append(entry)
    return found + _by_sound(store, whiten, frame_rate, train, rest)


def refuse_leaks(leaks: Sequence[Leak], allowed: bool) -> None:
    """Raise UserError if there are any; where they are `allowed`, warn."""
    if not leaks:
        return
    pairs = [f"{leak.held_out} is {leak.training}" for leak in leaks[:_NAMED]]
    more = [f"and {len(leaks) - _NAMED} more"] if len(leaks) > _NAMED else []
    what = f"{len(leaks)} held-out recording(s) are also in the training files"
    listed = "\n    ".join(["", *pairs, *more])
    if allowed:
        log.warning("%s:%s\n  skill and scores reward memorising them", what, listed)
        return
    raise UserError(
        what,
        why="skill, scores and the choice of the best weights would reward memorising:" + listed,
        do_this="remove one recording of each pair, then preprocess and encode again "
        "(training.leaks=allow trains all the same).",
    )


def _by_sound(
    store: LatentStore,
    whiten: Callable[[Tensor], Tensor],
    frame_rate: float,
    train: Sequence[Entry],
    held_out: Sequence[Entry],
) -> list[Leak]:
    widths = [round(seconds * frame_rate) for seconds in WINDOW_SECONDS]
    long = [entry for entry in held_out if entry.frames >= widths[-1]]
    frames = sum(entry.frames for entry in train)
    most = min(FILES, BUDGET // max(1, WINDOWS * frames))
    if not long or not train or most == 0:
        return []
    files = _Files(store, whiten, train)
    found = []
    by_width: dict[int, list[Entry]] = {}
    for k in windows.spread(len(long), most):
        width = next(width for width in widths if width <= long[k].frames)
        by_width.setdefault(width, []).append(long[k])
    for width, entries in by_width.items():
        starts = [_starts(entry.frames, width) for entry in entries]
        queries = [
            final[:, start : start + width]
            for final, mine in zip(_Files(store, whiten, entries), starts, strict=True)
            for start in mine
        ]
        matches = iter(nearest(torch.stack(queries), files, [[]] * len(queries)))
        for entry, mine in zip(entries, starts, strict=True):
            leak = _leak(entry, mine, [next(matches) for _ in mine], train)
            found += [leak] if leak else []
    return found


def _starts(frames: int, width: int) -> list[int]:
    """First frames of at most WINDOWS windows of a file, without overlap."""
    count = min(WINDOWS, frames // width)
    return windows.spread(frames - width + 1, count)


def _leak(
    entry: Entry, starts: Sequence[int], matches: Sequence[Match], train: Sequence[Entry]
) -> Leak | None:
    """The leak that a file's matches show: most of its windows at one offset of one file."""
    placed = [
        (match.place.file, match.place.start - start, match.resemblance)
        for start, match in zip(starts, matches, strict=True)
        if match.place is not None
    ]
    if not placed:
        return None
    (index, offset), _ = Counter((file, at) for file, at, _ in placed).most_common(1)[0]
    # Cut by a fraction of a frame, windows match to either side of it.
    agreeing = [score for file, at, score in placed if file == index and abs(at - offset) <= 1]
    source = train[index].source
    if source is not None and source == entry.source:
        return None
    limit = SAME if len(agreeing) > 1 else SAME_ALONE
    if 2 * len(agreeing) < len(starts) or len(agreeing) < min(2, len(starts)):
        return None
    typical = statistics.median(agreeing)
    return Leak(entry.key, train[index].key, "sound", typical) if typical > limit else None


@dataclass(frozen=True)
class _Files(Sequence[Tensor]):
    """Final latents [C, T] of files, read when asked for."""

    store: LatentStore
    whiten: Callable[[Tensor], Tensor]
    entries: Sequence[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        raw = np.array(self.store.mean(self.entries[index]), dtype=np.float32)
        return self.whiten(torch.from_numpy(raw))
