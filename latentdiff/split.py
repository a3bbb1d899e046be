"""Which files are held out for validation; stable when other files are added or removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def held_out(keys: Iterable[str], share: float, seed: int) -> set[str]:
    """The `share` (0..1) of keys whose seeded hashes are lowest; at least one key, never all.

    Hashing makes the split independent of order, and adding files moves only few of the old ones.
    """

    def rank(key: str) -> bytes:
        return hashlib.sha256(f"{seed}:{key}".encode()).digest()

    ordered = sorted(keys, key=rank)
    return set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])
