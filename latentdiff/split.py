"""Which files are held out for validation: by file, seeded, and stable when files come and go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath


def held_out(keys: Iterable[str], share: float, seed: int) -> set[str]:
    """`share` of the keys, at least one and never all: those whose seeded hash comes first.

    So a file's side does not depend on its neighbours' names, and more files move few of the old.
    """

    def rank(key: str) -> bytes:
        return hashlib.sha256(f"{seed}:{key}".encode()).digest()

    ordered = sorted(keys, key=rank)
    return set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])


def part_keys(key: str) -> tuple[str, str]:
    """Keys of the two parts of a file whose end is held out: its beginning, and its end."""
    name = PurePosixPath(key)
    head, tail = (str(name.with_stem(f"{name.stem} {side}")) for side in ("train", "validation"))
    return head, tail


def whole_key(head: str, tail: str) -> str | None:
    """The key of the file that two keys are the parts of, see `part_keys`; None if of none."""
    name = PurePosixPath(head)
    key = str(name.with_stem(name.stem.removesuffix(" train") or name.stem))
    return key if part_keys(key) == (head, tail) else None
