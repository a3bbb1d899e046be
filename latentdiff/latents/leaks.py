"""Held-out files that are also among the training files.

Shapes: D latent dimensions, T latent frames.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latentdiff.latents.store import LatentStore

LEAKED = 0.5
"""Share of a file's frames found in another file above which it holds the same recording."""
ENOUGH = 4096
"""Frames of a held-out file that are looked for, from its start."""


class Leak(NamedTuple):
    """A held-out file whose frames are in the training files."""

    key: str
    """Of the held-out file."""
    share: float
    """Share of its frames that are found there."""


def find_leaks(store: LatentStore) -> list[Leak]:
    """Held-out files of which most frames are, number for number, frames of training files.

    A codec gives equal frames for equal audio only, wherever it lies in a file by whole frames.
    Frames that repeat the one before are left out: silence is alike in all recordings. Raises
    UserError if a file is damaged.
    """
    wanted = {entry.key: _frames(store.mean(entry)[:, :ENOUGH]) for entry in store.of("validation")}
    unseen = set().union(*wanted.values()) if wanted else set[bytes]()
    seen = set[bytes]()
    for entry in store.of("train") if unseen else []:
        seen |= unseen & _frames(store.mean(entry))
    shares = {key: len(frames & seen) / len(frames) for key, frames in wanted.items() if frames}
    return [Leak(key, share) for key, share in shares.items() if share > LEAKED]


def _frames(latents: np.ndarray) -> set[bytes]:
    """The frames [D] of latents [D, T] that differ from the one before."""
    rows = np.ascontiguousarray(latents.T, dtype=np.float32)
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return {row.tobytes() for row in rows[new]}
