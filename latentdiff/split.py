"""Which files are held out for validation: by file, seeded, and stable when files come and go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def held_out(keys: Iterable[str], share: float, seed: int) -> set[str]:
    """`share` of the keys, at least one and never all: those whose seeded hash comes first.

    So a file's side does not depend on its neighbours' names, and more files move few of the old.
    """

    def rank(key: str) -> bytes:
        return hashlib.sha256(f"{seed}:{key}".encode()).digest()

    ordered = sorted(keys, key=rank)
    return set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])
